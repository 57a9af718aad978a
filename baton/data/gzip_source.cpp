// SPDX-License-Identifier: Apache-2.0
#include "baton/data/gzip_source.h"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include <zlib.h>

#include "baton/base/error.h"

namespace baton {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 16;
constexpr int kGzipOnly = 16; // added to the window's bits: neither zlib's nor raw format
constexpr unsigned char kMagic[] = {0x1F, 0x8B};

} // namespace

struct GzipSource::Inflater {
  Inflater() {
    if (inflateInit2(&stream, MAX_WBITS + kGzipOnly) != Z_OK) {
      throw std::bad_alloc();
    }
  }
  ~Inflater() { inflateEnd(&stream); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  z_stream stream{};
};

bool begins_as_gzip(std::string_view head) {
  return head.size() >= std::size(kMagic) && static_cast<unsigned char>(head[0]) == kMagic[0] &&
         static_cast<unsigned char>(head[1]) == kMagic[1];
}

GzipSource::GzipSource(std::unique_ptr<ByteSource> compressed, std::string name)
    : compressed_(std::move(compressed)),
      name_(std::move(name)),
      inflater_(std::make_unique<Inflater>()),
      buffer_(kBufferBytes, '\0') {}

GzipSource::~GzipSource() = default;

bool GzipSource::refill() {
  z_stream& stream = inflater_->stream;
  if (stream.avail_in == 0) {
    const std::size_t got = compressed_->read(buffer_.data(), buffer_.size());
    stream.next_in = reinterpret_cast<Bytef*>(buffer_.data());
    stream.avail_in = static_cast<uInt>(got);
  }
  return stream.avail_in > 0;
}

// Whether another member follows; false at the end of the file.
bool GzipSource::begin_member() {
  z_stream& stream = inflater_->stream;
  bool padded = false;
  while (refill()) {
    if (*stream.next_in != 0) {
      if (padded || *stream.next_in != kMagic[0]) {
        throw Error(
            name_ + ": damaged: what follows gzip member " + std::to_string(member_) +
            " (counted from 0) is no gzip data");
      }
      ++member_;
      inflateReset(&stream);
      return true;
    }
    padded = true;
    ++stream.next_in;
    --stream.avail_in;
  }
  return false;
}

std::size_t GzipSource::read(char* out, std::size_t size) {
  z_stream& stream = inflater_->stream;
  const auto wanted =
      static_cast<uInt>(std::min<std::size_t>(size, std::numeric_limits<int>::max()));
  stream.next_out = reinterpret_cast<Bytef*>(out);
  stream.avail_out = wanted;
  while (!ended_ && stream.avail_out == wanted) {
    if (std::exchange(between_members_, false) && !begin_member()) {
      ended_ = true;
      break;
    }
    if (!refill()) {
      throw Error(
          name_ + ": truncated: the file ends inside gzip member " + std::to_string(member_) +
          " (counted from 0)");
    }
    const int result = inflate(&stream, Z_NO_FLUSH);
    if (result == Z_MEM_ERROR) {
      throw std::bad_alloc();
    }
    if (result == Z_STREAM_END) {
      between_members_ = true;
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      throw Error(
          name_ + ": damaged gzip data in member " + std::to_string(member_) +
          " (counted from 0): " + (stream.msg != nullptr ? stream.msg : "it wants a dictionary"));
    }
  }
  return wanted - stream.avail_out;
}

} // namespace baton
