// SPDX-License-Identifier: Apache-2.0
// baton tokenize: token ids of a text, and back.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "baton/base/error.h"
#include "baton/data/tokenizer.h"

namespace baton {
namespace {

struct TokenizeArguments {
  std::string tokenizer;
  std::string records = "whole";
  bool decode = false;
  bool json = false;
};

std::string read_standard_input() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

// The parts of a text that an end character closes; what follows the last one is a part, too.
std::vector<std::string_view> split_records(std::string_view text, char end_character) {
  std::vector<std::string_view> records;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(end_character), text.size());
    records.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return records;
}

std::vector<std::int32_t> parse_ids(std::string_view line, std::int64_t vocab_size) {
  std::vector<std::int32_t> ids;
  for (std::size_t begin = 0; (begin = line.find_first_not_of(' ', begin)) != line.npos;) {
    const std::size_t end = std::min(line.find(' ', begin), line.size());
    const std::string word(line.substr(begin, end - begin));
    char* rest = nullptr;
    const long id = std::strtol(word.c_str(), &rest, 10);
    if (*rest != '\0' || id < 0 || id >= vocab_size) {
      throw Error(
          "an id must be an integer in [0, " + std::to_string(vocab_size) + "), got \"" + word +
          "\"");
    }
    ids.push_back(static_cast<std::int32_t>(id));
    begin = end;
  }
  return ids;
}

void print_ids(const std::vector<std::int32_t>& ids) {
  std::string line;
  for (const std::int32_t id : ids) {
    line += line.empty() ? "" : " ";
    line += std::to_string(id);
  }
  line += '\n';
  std::fwrite(line.data(), 1, line.size(), stdout);
}

void print_text(const std::string& text, bool json) {
  const std::string line = (json ? nlohmann::json(text).dump() : text) + "\n";
  std::fwrite(line.data(), 1, line.size(), stdout);
}

void run_tokenize(const TokenizeArguments& arguments) {
  const std::unique_ptr<const Tokenizer> tokenizer = make_tokenizer(arguments.tokenizer);
  const std::string input = read_standard_input();
  if (arguments.decode) {
    for (const std::string_view line : split_records(input, '\n')) {
      print_text(tokenizer->decode(parse_ids(line, tokenizer->vocab_size())), arguments.json);
    }
    return;
  }
  if (arguments.records == "whole") {
    print_ids(tokenizer->encode(input));
    return;
  }
  for (const std::string_view record :
       split_records(input, arguments.records == "lines" ? '\n' : '\0')) {
    print_ids(tokenizer->encode(record));
  }
}

} // namespace

void add_tokenize_command(CLI::App& app) {
  auto arguments = std::make_shared<TokenizeArguments>();
  CLI::App* command =
      app.add_subcommand("tokenize", "print the token ids of the text on the standard input");
  command
      ->add_option(
          "tokenizer",
          arguments->tokenizer,
          "byte, or a tokenizer.json, a .model file, or a folder that holds one")
      ->required();
  command
      ->add_option(
          "--records",
          arguments->records,
          "what is encoded by itself and gets a line of ids: whole, lines, or zero for texts that "
          "end with a zero byte")
      ->check(CLI::IsMember({"whole", "lines", "zero"}))
      ->type_name("TEXT")
      ->capture_default_str();
  command->add_flag("--decode", arguments->decode, "read lines of ids and print their texts");
  command->add_flag("--json", arguments->json, "print each text as a JSON string, with --decode");
  command->callback([arguments] { run_tokenize(*arguments); });
}

} // namespace baton
