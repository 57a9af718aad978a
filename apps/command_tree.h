// SPDX-License-Identifier: Apache-2.0
// The commands of the program as data, read from the parser itself, for what lists them all.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace baton {

/// One option or positional argument of a command.
struct OptionInfo {
  std::vector<std::string> names; ///< "--set", or one plain word for a positional argument
  std::string value;              ///< what it takes ("TEXT", "INT"), empty for a flag
  std::vector<std::string> choices;
  std::string default_text;
  std::string meaning;
  bool positional = false;
  bool required = false;
};

/// One command with its place among the others.
struct CommandInfo {
  std::vector<std::string> path; ///< {} for the program itself, {"data", "build"}, ...
  std::string meaning;
  std::vector<std::string> subcommands;
  std::vector<OptionInfo> options;
};

/// The program and all its commands, each before its subcommands.
std::vector<CommandInfo> command_tree(const CLI::App& app);

} // namespace baton
