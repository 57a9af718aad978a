// SPDX-License-Identifier: Apache-2.0
// Decompresses Zstandard (RFC 8878) from a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "baton/data/byte_source.h"

namespace baton {

bool begins_as_zstd(std::string_view head);

/// The frames of a Zstandard file behind one another, skippable ones passed over. Memory is a
/// frame's window, 8 MiB as `zstd` writes and up to 2 GiB with its --long=31. Throws Error, naming
/// `name`, for data that is damaged, ends inside a frame or wants a larger window.
class ZstdSource final : public ByteSource {
 public:
  static constexpr int kLargestWindowLog = 31;

  ZstdSource(
      std::unique_ptr<ByteSource> compressed,
      std::string name,
      int window_log = kLargestWindowLog);
  ~ZstdSource() override;

  std::size_t read(char* out, std::size_t size) override;
  std::int64_t consumed() const override { return compressed_->consumed(); }

 private:
  struct Decompressor; // the library's own types stay out of this header

  bool begin_frame();

  std::unique_ptr<ByteSource> compressed_;
  std::string name_;
  std::unique_ptr<Decompressor> decompressor_;
  std::string buffer_; // compressed bytes
  bool in_frame_ = false;
  unsigned long long content_ = 0;  // bytes that the frame states, or the library's mark for none
  unsigned long long produced_ = 0; // of them so far
};

} // namespace baton
