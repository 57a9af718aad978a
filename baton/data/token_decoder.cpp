// SPDX-License-Identifier: Apache-2.0
#include "baton/data/token_decoder.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "baton/base/error.h"
#include "baton/data/byte_alphabet.h"
#include "baton/data/metaspace.h"
#include "baton/data/regex.h"
#include "baton/data/tokenizer_pattern.h"
#include "baton/data/unicode.h"
#include "baton/data/utf8.h"
#include "baton/data/vocabulary.h"

namespace baton {
namespace {

// A step that gives one text for each.
class TextStep : public DecodeStep {
 public:
  void push(std::string text, const Sink& sink) final { sink(change(text)); }
  void finish(const Sink&) final {}

 private:
  virtual std::string change(const std::string& text) = 0;
};

class JoinStep final : public TextStep {
  std::string change(const std::string& text) override {
    return std::exchange(first_, false) ? text : " " + text;
  }
  bool first_ = true;
};

std::string replace_all(const Regex& pattern, const std::string& content, const std::string& text) {
  std::vector<TextSpan> spans;
  pattern.split(text, spans);
  std::string out;
  for (const TextSpan& span : spans) {
    out += span.matched ? content : text.substr(span.begin, span.end - span.begin);
  }
  return out;
}

class ReplaceStep final : public TextStep {
 public:
  ReplaceStep(std::shared_ptr<const Regex> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

 private:
  std::string change(const std::string& text) override {
    return replace_all(*pattern_, content_, text);
  }

  std::shared_ptr<const Regex> pattern_;
  std::string content_;
};

std::string
replace_visible_spaces(const std::string& text, const std::string& character, const char* content) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    if (text.compare(at, character.size(), character) == 0) {
      out += content;
      at += character.size();
    } else {
      out += text[at++];
    }
  }
  return out;
}

// Visible spaces become spaces; those of the first text go where the pre-tokenizer puts one there.
class MetaspaceStep final : public TextStep {
 public:
  MetaspaceStep(std::string character, bool drops_first, bool joined)
      : character_(std::move(character)), drops_(drops_first), joined_(joined) {}

 private:
  std::string change(const std::string& text) override {
    const bool drops = std::exchange(drops_, drops_ && joined_);
    return replace_visible_spaces(text, character_, drops ? "" : " ");
  }

  std::string character_;
  bool drops_;
  bool joined_;
};

struct StripOptions {
  std::string content;
  std::size_t start = 0;
  std::size_t stop = 0;
};

std::size_t leading(std::string_view text, const StripOptions& options, std::size_t most) {
  std::size_t count = 0;
  while (count < most && text.substr(count * options.content.size()).starts_with(options.content)) {
    ++count;
  }
  return count;
}

class StripStep final : public TextStep {
 public:
  explicit StripStep(StripOptions options) : options_(std::move(options)) {}

 private:
  std::string change(const std::string& text) override {
    std::string_view rest = text;
    rest.remove_prefix(leading(rest, options_, options_.start) * options_.content.size());
    for (std::size_t i = 0; i < options_.stop && rest.ends_with(options_.content); ++i) {
      rest.remove_suffix(options_.content.size());
    }
    return std::string(rest);
  }

  StripOptions options_;
};

// The same for one text that comes in parts.
class StripJoinedStep final : public DecodeStep {
 public:
  explicit StripJoinedStep(StripOptions options)
      : options_(std::move(options)), to_strip_(options_.start) {}

  void push(std::string text, const Sink& sink) override {
    const std::size_t size = options_.content.size();
    const std::size_t count = leading(text, options_, to_strip_);
    to_strip_ -= count;
    text.erase(0, count * size);
    if (!text.empty()) {
      to_strip_ = 0;
    }
    held_ += text;
    std::size_t end = held_.size();
    for (std::size_t i = 0; i < options_.stop; ++i) {
      if (!std::string_view(held_).substr(0, end).ends_with(options_.content)) {
        break;
      }
      end -= size;
    }
    sink(held_.substr(0, end));
    held_.erase(0, end);
  }

  void finish(const Sink&) override { held_.clear(); }

 private:
  StripOptions options_;
  std::size_t to_strip_;
  std::string held_; // of the end, which is stripped unless more follows
};

// Neighbouring byte tokens become the characters that they form, or U+FFFD each where any of them
// forms none: so nothing of them is decided before the last.
class ByteFallbackStep final : public DecodeStep {
 public:
  void push(std::string text, const Sink& sink) override {
    if (const auto byte = byte_of_token(text)) {
      bytes_ += static_cast<char>(*byte);
      return;
    }
    finish(sink);
    sink(std::move(text));
  }

  void finish(const Sink& sink) override {
    const std::string bytes = std::exchange(bytes_, std::string());
    if (is_valid_utf8(bytes)) {
      if (!bytes.empty()) {
        sink(bytes);
      }
      return;
    }
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      sink(std::string(kReplacementCharacter));
    }
  }

 private:
  std::string bytes_;
};

// Characters of the byte alphabet become their bytes, and bytes characters.
class ByteLevelStep final : public DecodeStep {
 public:
  void push(std::string text, const Sink& sink) override {
    const auto bytes = bytes_of_characters(text);
    pending_ += bytes ? *bytes : text;
    sink(take_characters(pending_));
  }

  void finish(const Sink& sink) override {
    if (!pending_.empty()) {
      sink(std::string(kReplacementCharacter));
    }
    pending_.clear();
  }

 private:
  std::string pending_; // the beginning of a character
};

void send(
    const std::vector<std::unique_ptr<DecodeStep>>& steps,
    std::size_t next,
    std::string text,
    std::string& out) {
  if (next == steps.size()) {
    out += text;
    return;
  }
  steps[next]->push(
      std::move(text), [&](std::string result) { send(steps, next + 1, std::move(result), out); });
}

std::size_t count_of(const JsonNode& node) {
  constexpr std::int64_t kMost = 1 << 20;
  return static_cast<std::size_t>(node.integer(kMost));
}

StripOptions read_strip(const JsonNode& node) {
  StripOptions options{
      node.at("content").string(), count_of(node.at("start")), count_of(node.at("stop"))};
  if (options.content.empty() ||
      unicode::character_size(options.content[0]) != options.content.size()) {
    node.at("content").fail("must be one character");
  }
  return options;
}

[[noreturn]] void fail_joined(const JsonNode& node, const std::string& type) {
  throw Error(
      node.file() + ": decoder " + in_quotes(type) +
      " is not supported behind one that joins tokens (Fuse, ByteLevel)");
}

} // namespace

TokenDecoder::TokenDecoder(const std::optional<JsonNode>& node) {
  if (!node) {
    steps_.emplace_back([] { return std::make_unique<JoinStep>(); });
    return;
  }
  bool joined = false;
  add(*node, joined);
}

std::vector<std::unique_ptr<DecodeStep>> TokenDecoder::start() const {
  std::vector<std::unique_ptr<DecodeStep>> steps;
  steps.reserve(steps_.size());
  for (const MakeStep& make : steps_) {
    steps.push_back(make());
  }
  return steps;
}

std::string TokenDecoder::bytes_of(std::string text) const {
  for (const auto& change : changes_) {
    text = change(text);
  }
  return text;
}

void TokenDecoder::add(const JsonNode& node, bool& joined) {
  const std::string& type = node.at("type").string();
  if (type == "Sequence") {
    for (const JsonNode& part : node.at("decoders").list()) {
      add(part, joined);
    }
  } else if (type == "Fuse") {
    joined = true;
  } else if (type == "Strip") {
    const StripOptions options = read_strip(node);
    if (joined) {
      steps_.emplace_back([options] { return std::make_unique<StripJoinedStep>(options); });
    } else {
      steps_.emplace_back([options] { return std::make_unique<StripStep>(options); });
    }
  } else if (type == "Metaspace") {
    const Metaspace settings = read_metaspace(node);
    changes_.emplace_back([settings](const std::string& text) {
      return replace_visible_spaces(text, settings.character, " ");
    });
    steps_.emplace_back([settings, joined] {
      return std::make_unique<MetaspaceStep>(
          settings.character, settings.prepend != Metaspace::Prepend::kNever, joined);
    });
  } else if (type == "Replace" && !joined) {
    const auto pattern = std::make_shared<const Regex>(read_pattern(node.at("pattern")));
    const std::string content = node.at("content").string();
    steps_.emplace_back(
        [pattern, content] { return std::make_unique<ReplaceStep>(pattern, content); });
    changes_.emplace_back([pattern, content](const std::string& text) {
      return replace_all(*pattern, content, text);
    });
  } else if (type == "ByteFallback" && !joined) {
    steps_.emplace_back([] { return std::make_unique<ByteFallbackStep>(); });
    changes_.emplace_back([](const std::string& text) {
      const auto byte = byte_of_token(text);
      return byte ? std::string(1, static_cast<char>(*byte)) : text;
    });
  } else if (type == "ByteLevel" && !joined) {
    steps_.emplace_back([] { return std::make_unique<ByteLevelStep>(); });
    changes_.emplace_back(
        [](const std::string& text) { return bytes_of_characters(text).value_or(text); });
    joined = true;
  } else if (type == "Replace" || type == "ByteFallback" || type == "ByteLevel") {
    fail_joined(node, type);
  } else {
    throw Error(
        node.file() + ": decoder " + in_quotes(type) +
        " is not supported; known: ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, "
        "Strip");
  }
}

void push_through(
    const std::vector<std::unique_ptr<DecodeStep>>& steps,
    std::string token,
    std::string& text) {
  send(steps, 0, std::move(token), text);
}

void finish_steps(const std::vector<std::unique_ptr<DecodeStep>>& steps, std::string& text) {
  for (std::size_t i = 0; i < steps.size(); ++i) {
    steps[i]->finish([&](std::string result) { send(steps, i + 1, std::move(result), text); });
  }
}

} // namespace baton
