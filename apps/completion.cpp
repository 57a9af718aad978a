// SPDX-License-Identifier: Apache-2.0
// baton completion: scripts that let a shell complete baton's command line.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "apps/command.h"
#include "apps/command_tree.h"
#include "baton/base/config.h"
#include "baton/train/recipe.h"

namespace baton {
namespace {

// What both shells ask: the branches of three `case` statements. A command's place is written as
// its path, "/data/build"; the program's is "".
struct Branches {
  std::string paths;  // the known paths, as alternatives of one pattern
  std::string values; // "place option": the words that the option takes
  std::string words;  // place: its subcommands, or its options
  std::string keys;   // recipe keys, as `--set` takes them
};

std::string place_of(const CommandInfo& command) {
  std::string place;
  for (const std::string& word : command.path) {
    place += "/" + word;
  }
  return place;
}

std::string listed(const std::vector<std::string>& words) {
  std::string list;
  for (const std::string& word : words) {
    list += (list.empty() ? "" : " ") + word;
  }
  return list;
}

void add_option(
    const std::string& place,
    const OptionInfo& option,
    std::vector<std::string>& words,
    Branches& branches) {
  if (option.positional) {
    return;
  }
  words.insert(words.end(), option.names.begin(), option.names.end());
  if (!option.choices.empty()) {
    for (const std::string& name : option.names) {
      branches.values +=
          "    (\"" + place + " " + name + "\") found=\"" + listed(option.choices) + "\" ;;\n";
    }
  }
}

Branches make_branches(const CLI::App& app) {
  Branches branches;
  for (const CommandInfo& command : command_tree(app)) {
    const std::string place = place_of(command);
    std::vector<std::string> words = command.subcommands;
    for (const OptionInfo& option : command.options) {
      add_option(place, option, words, branches);
    }
    if (!place.empty()) {
      branches.paths += (branches.paths.empty() ? "" : "|") + place;
    }
    branches.words += "    (\"" + place + "\") found=\"" + listed(words) + "\" ;;\n";
  }
  train::Recipe recipe;
  for (const ConfigField& field : config_fields(recipe)) {
    branches.keys += (branches.keys.empty() ? "" : " ") + field.key + "=";
  }
  return branches;
}

/// What differs between the shells; everything else is one script.
struct Shell {
  std::string begin;  ///< up to the variables of the command line
  std::string before; ///< the words before the one that is completed
  std::string keys;   ///< offers $found without a space behind it
  std::string files;  ///< offers files
  std::string words;  ///< offers $found
  std::string end;    ///< behind the function
};

const Shell kBash{
    "_baton() {\n"
    "  local current=\"${COMP_WORDS[COMP_CWORD]}\" before=\"${COMP_WORDS[COMP_CWORD-1]}\"\n",
    "\"${COMP_WORDS[@]:1:COMP_CWORD-1}\"",
    "    compopt -o nospace 2> /dev/null\n"
    "    COMPREPLY=($(compgen -W \"$found\" -- \"$current\"))\n",
    "      compopt -o filenames 2> /dev/null\n"
    "      mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n",
    "  COMPREPLY=($(compgen -W \"$found\" -- \"$current\"))\n",
    "complete -F _baton baton\n"};

const Shell kZsh{
    "#compdef baton\n"
    "_baton() {\n"
    "  local current=${words[CURRENT]} before=${words[CURRENT-1]}\n",
    "${words[2,CURRENT-1]}",
    "    compadd -S '' -- ${=found}\n",
    "      _files\n",
    "  compadd -- ${=found}\n",
    "if [[ ${funcstack[1]} == _baton ]]; then _baton \"$@\"; else compdef _baton baton; fi\n"};

// Where an option takes a word of its own, or nothing is known, files are offered.
std::string script_of(const Shell& shell, const Branches& branches) {
  return shell.begin +
         "  local place=\"\" word found=\"\"\n"
         "  for word in " +
         shell.before +
         "; do\n"
         "    case \"$place/$word\" in (" +
         branches.paths +
         ") place=\"$place/$word\" ;; esac\n"
         "  done\n"
         "  if [[ \"$place $before\" == \"/train --set\" ]]; then\n"
         "    found=\"" +
         branches.keys + "\"\n" + shell.keys +
         "    return\n"
         "  fi\n"
         "  case \"$place $before\" in\n" +
         branches.values +
         "  esac\n"
         "  if [[ -z $found ]]; then\n"
         "    case \"$place\" in\n" +
         branches.words +
         "    esac\n"
         "    if [[ $current != -* && $found == -* ]]; then\n" +
         shell.files +
         "      return\n"
         "    fi\n"
         "  fi\n" +
         shell.words + "}\n" + shell.end;
}

} // namespace

void add_completion_command(CLI::App& app) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "completion", "print a completion script: source <(baton completion bash)");
  command->add_option("shell", *shell, "whose script to print")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh"}));
  command->callback([shell, &app] {
    const std::string script = script_of(*shell == "bash" ? kBash : kZsh, make_branches(app));
    std::fwrite(script.data(), 1, script.size(), stdout);
  });
}

} // namespace baton
