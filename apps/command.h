// SPDX-License-Identifier: Apache-2.0
// The subcommands of the program. Each lives in the file of its name and runs from its callback.
#pragma once

#include <CLI/CLI.hpp>

namespace baton {

/// Adds `baton data`.
void add_data_command(CLI::App& app);

/// Adds `baton pattern`.
void add_pattern_command(CLI::App& app);

} // namespace baton
