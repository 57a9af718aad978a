// SPDX-License-Identifier: Apache-2.0
#include "apps/command_tree.h"

#include <string_view>

namespace baton {
namespace {

// CLI11 tells the words of a choice inside a type: "TEXT:{cpu,cuda}".
std::vector<std::string> words_in_braces(std::string_view type) {
  std::vector<std::string> words;
  const std::size_t open = type.find('{');
  const std::size_t close = type.find('}');
  if (open == std::string_view::npos || close == std::string_view::npos) {
    return words;
  }
  for (std::size_t begin = open + 1; begin <= close;) {
    const std::size_t end = std::min(type.find(',', begin), close);
    words.emplace_back(type.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

OptionInfo describe(const CLI::Option& option) {
  OptionInfo info;
  info.positional = option.get_positional();
  if (info.positional) {
    info.names.push_back(option.get_name(/*positional=*/true));
  }
  for (const std::string& name : option.get_snames()) {
    info.names.push_back("-" + name);
  }
  for (const std::string& name : option.get_lnames()) {
    info.names.push_back("--" + name);
  }
  if (option.get_items_expected_max() > 0) {
    const std::string type = option.get_type_name();
    info.value = type.substr(0, type.find(':'));
    info.choices = words_in_braces(type);
  }
  info.default_text = option.get_default_str();
  info.meaning = option.get_description();
  info.required = option.get_required();
  return info;
}

void add_commands(
    const CLI::App& app,
    const std::vector<std::string>& path,
    std::vector<CommandInfo>& commands) {
  CommandInfo info{path, app.get_description(), {}, {}};
  for (const CLI::Option* option : app.get_options()) {
    info.options.push_back(describe(*option));
  }
  const std::vector<const CLI::App*> subcommands =
      app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* subcommand : subcommands) {
    info.subcommands.push_back(subcommand->get_name());
  }
  commands.push_back(info);
  for (const CLI::App* subcommand : subcommands) {
    std::vector<std::string> deeper = path;
    deeper.push_back(subcommand->get_name());
    add_commands(*subcommand, deeper, commands);
  }
}

} // namespace

std::vector<CommandInfo> command_tree(const CLI::App& app) {
  std::vector<CommandInfo> commands;
  add_commands(app, {}, commands);
  return commands;
}

} // namespace baton
