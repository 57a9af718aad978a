// SPDX-License-Identifier: Apache-2.0
// The subcommands of the program. Each lives in the file of its name and runs from its callback.
#pragma once

#include <CLI/CLI.hpp>

namespace baton {

void add_bench_command(CLI::App& app);      ///< baton bench
void add_completion_command(CLI::App& app); ///< baton completion
void add_convert_command(CLI::App& app);    ///< baton convert
void add_data_command(CLI::App& app);       ///< baton data
void add_doctor_command(CLI::App& app);     ///< baton doctor
void add_eval_command(CLI::App& app);       ///< baton eval
void add_generate_command(CLI::App& app);   ///< baton generate
void add_kernels_command(CLI::App& app);    ///< baton kernels
void add_logits_command(CLI::App& app);     ///< baton logits
void add_pattern_command(CLI::App& app);    ///< baton pattern
void add_plan_command(CLI::App& app);       ///< baton plan
void add_reference_command(CLI::App& app);  ///< baton reference
void add_tokenize_command(CLI::App& app);   ///< baton tokenize
void add_train_command(CLI::App& app);      ///< baton train

} // namespace baton
