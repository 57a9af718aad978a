// SPDX-License-Identifier: Apache-2.0
// baton reference: commands, recipe keys and environment variables, from where they are defined.
#include <cstdio>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/command_tree.h"
#include "baton/base/config_text.h"
#include "baton/base/env.h"
#include "baton/train/recipe.h"

namespace baton {
namespace {

constexpr const char* kPageHead =
    "# Reference\n\n"
    "Made by `baton reference`; do not edit. `baton COMMAND --help` tells the same of one "
    "command,\n"
    "`baton reference --recipe` prints all recipe keys as a recipe.\n";
constexpr const char* kRecipeHead =
    "# Every key of a recipe with its default value. Made by `baton reference --recipe`.\n"
    "# run.folder, data.train and model.pattern have none and must be given.\n\n";

std::string joined(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (const std::string& word : words) {
    text += (text.empty() ? "" : between) + word;
  }
  return text;
}

std::string option_row(const OptionInfo& option) {
  std::string value = option.choices.empty() ? option.value : joined(option.choices, ", ");
  if (option.required) {
    value += value.empty() ? "required" : ", required";
  }
  return "| `" + joined(option.names, "`, `") + "` | " + markdown_cell(value) + " | " +
         (option.default_text.empty() ? "" : "`" + markdown_cell(option.default_text) + "`") +
         " | " + markdown_cell(option.meaning) + " |\n";
}

std::string command_section(const CommandInfo& command) {
  std::string text = "\n### baton";
  for (const std::string& word : command.path) {
    text += " " + word;
  }
  text += "\n" + command.meaning + "\n";
  if (!command.options.empty()) {
    text += "\n| argument | value | default | meaning |\n|---|---|---|---|\n";
  }
  for (const OptionInfo& option : command.options) {
    text += option_row(option);
  }
  return text;
}

std::string reference_page(const CLI::App& app) {
  std::string page = std::string(kPageHead) + "\n## Commands\n";
  for (const CommandInfo& command : command_tree(app)) {
    page += command_section(command);
  }
  return page + "\n## Recipe keys\n" + config_reference<train::Recipe>() +
         "\n## Environment variables\n" + print_env_reference();
}

} // namespace

void add_reference_command(CLI::App& app) {
  auto recipe = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand(
      "reference", "print all commands, recipe keys and environment variables as Markdown");
  command->add_flag("--recipe", *recipe, "print a recipe of all keys with comments instead");
  command->callback([recipe, &app] {
    train::Recipe defaults;
    const std::string text =
        *recipe ? kRecipeHead + print_annotated_toml(config_fields(defaults)) : reference_page(app);
    std::fwrite(text.data(), 1, text.size(), stdout);
  });
}

} // namespace baton
