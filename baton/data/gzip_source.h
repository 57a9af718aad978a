// SPDX-License-Identifier: Apache-2.0
// Decompresses gzip (RFC 1952) from a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "baton/data/byte_source.h"

namespace baton {

/// Bytes that tell one kind of file from another.
constexpr std::size_t kMagicBytes = 4;

bool begins_as_gzip(std::string_view head);

/// The members of a gzip file behind one another, each checked against its checksum and length.
/// Zero bytes may fill the file up behind the last. Throws Error, naming `name`, for data that is
/// damaged, ends inside a member, or goes on with something else.
class GzipSource final : public ByteSource {
 public:
  GzipSource(std::unique_ptr<ByteSource> compressed, std::string name);
  ~GzipSource() override;

  std::size_t read(char* out, std::size_t size) override;
  std::int64_t consumed() const override { return compressed_->consumed(); }

 private:
  struct Inflater; // zlib's own struct stays out of this header

  bool refill();
  bool begin_member();

  std::unique_ptr<ByteSource> compressed_;
  std::string name_;
  std::unique_ptr<Inflater> inflater_;
  std::string buffer_;      // compressed bytes; zlib holds the place in it
  std::int64_t member_ = 0; // number of the one under way, from 0
  bool between_members_ = false;
  bool ended_ = false;
};

} // namespace baton
