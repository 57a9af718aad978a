// SPDX-License-Identifier: Apache-2.0
// The "decoder" of a tokenizer.json: from the texts of tokens to text, token by token.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "baton/data/json_node.h"

namespace baton {

/// One step of a decoder on the way through the tokens of one text.
class DecodeStep {
 public:
  using Sink = std::function<void(std::string)>;

  virtual ~DecodeStep() = default;
  /// Takes the next text and gives those that are decided with it. Texts are not UTF-8 where tokens
  /// stand for bytes.
  virtual void push(std::string text, const Sink& sink) = 0;
  /// Gives what was held back, at the end of the tokens.
  virtual void finish(const Sink& sink) = 0;
};

/// Immutable; makes the steps for each text.
class TokenDecoder {
 public:
  using MakeStep = std::function<std::unique_ptr<DecodeStep>()>;

  /// `node` is null where the file has no decoder: then a space joins the tokens. Throws Error that
  /// names the file for a kind or an option that is not supported.
  explicit TokenDecoder(const std::optional<JsonNode>& node);

  std::vector<std::unique_ptr<DecodeStep>> start() const;

  /// The bytes that a token's text stands for amid others.
  std::string bytes_of(std::string text) const;

 private:
  // `joined`: whether the step before gives parts of one text, not the texts of tokens.
  void add(const JsonNode& node, bool& joined);

  std::vector<MakeStep> steps_;
  std::vector<std::function<std::string(const std::string&)>> changes_; // of bytes_of()
};

/// Sends a text through steps, from the first on; what the last gives is appended.
void push_through(
    const std::vector<std::unique_ptr<DecodeStep>>& steps,
    std::string token,
    std::string& text);

/// Ends them, in order.
void finish_steps(const std::vector<std::unique_ptr<DecodeStep>>& steps, std::string& text);

} // namespace baton
