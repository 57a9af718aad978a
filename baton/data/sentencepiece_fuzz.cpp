// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any bytes are a SentencePiece model that the library survives, or a clean error.
#include <cstddef>
#include <cstdint>
#include <string>

#include "baton/base/error.h"
#include "baton/data/sentencepiece_tokenizer.h"
#include "baton/data/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  try {
    const baton::SentencePieceTokenizer tokenizer(bytes, "no_such_folder/fuzz.model");
    const std::vector<std::int32_t> ids = tokenizer.encode("The \xEF\xBC\xA1 and \xE2\x82\xAC\xFF");
    for (const std::int32_t id : ids) {
      if (id < 0 || id >= tokenizer.vocab_size()) {
        __builtin_trap();
      }
    }
    if (!baton::is_valid_utf8(tokenizer.decode(ids))) {
      __builtin_trap();
    }
  } catch (const baton::Error&) {
  }
  return 0;
}
