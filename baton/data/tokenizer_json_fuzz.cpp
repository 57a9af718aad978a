// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any bytes are a tokenizer.json, up to a zero byte, and a text to encode, or a clean
// error. What is decoded again is valid UTF-8, whole and in parts.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "baton/base/error.h"
#include "baton/data/json_tokenizer.h"
#include "baton/data/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = std::min(input.find('\0'), size);
  const std::string text = end < size ? input.substr(end + 1) : "a b";
  try {
    const baton::JsonTokenizer tokenizer(input.substr(0, end), "no_such_folder/tokenizer.json");
    const std::vector<std::int32_t> ids = tokenizer.encode(text);
    for (const std::int32_t id : ids) {
      if (id < 0 || id >= tokenizer.vocab_size()) {
        __builtin_trap();
      }
      tokenizer.token_bytes(id);
    }
    if (ids != tokenizer.encode(text)) {
      __builtin_trap(); // the second time, words come from the cache
    }
    baton::StreamingDecoder decoder(tokenizer);
    for (const std::int32_t id : ids) {
      if (!baton::is_valid_utf8(decoder.push(id))) {
        __builtin_trap();
      }
    }
    if (!baton::is_valid_utf8(decoder.finish())) {
      __builtin_trap();
    }
  } catch (const baton::Error&) {
  }
  return 0;
}
