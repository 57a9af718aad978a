// SPDX-License-Identifier: Apache-2.0
// baton data inspect.
#pragma once

#include <CLI/CLI.hpp>

namespace baton {

void add_inspect_command(CLI::App& data);

} // namespace baton
