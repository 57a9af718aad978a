// SPDX-License-Identifier: Apache-2.0
#include "baton/data/zstd_source.h"

#include <new>
#include <utility>

#include <zstd.h>

#include "baton/base/error.h"

namespace baton {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 17;
constexpr std::uint32_t kFrameMagic = 0xFD2FB528;
constexpr std::size_t kLongestHead = 18; // of a frame
// Sixteen magic numbers mark frames whose content is not data.
constexpr std::uint32_t kSkippableMagic = 0x184D2A50;
constexpr std::uint32_t kSkippableMask = 0xFFFFFFF0;

} // namespace

struct ZstdSource::Decompressor {
  explicit Decompressor(int window_log) : context(ZSTD_createDCtx()) {
    if (context == nullptr) {
      throw std::bad_alloc();
    }
    ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, window_log);
  }
  ~Decompressor() { ZSTD_freeDCtx(context); }
  Decompressor(const Decompressor&) = delete;
  Decompressor& operator=(const Decompressor&) = delete;

  ZSTD_DCtx* context;
  ZSTD_inBuffer input{nullptr, 0, 0};
};

bool begins_as_zstd(std::string_view head) {
  std::uint32_t magic = 0;
  if (head.size() < sizeof(magic)) {
    return false;
  }
  for (std::size_t i = sizeof(magic); i-- > 0;) {
    magic = magic << 8 | static_cast<unsigned char>(head[i]);
  }
  return magic == kFrameMagic || (magic & kSkippableMask) == kSkippableMagic;
}

ZstdSource::ZstdSource(std::unique_ptr<ByteSource> compressed, std::string name, int window_log)
    : compressed_(std::move(compressed)),
      name_(std::move(name)),
      decompressor_(std::make_unique<Decompressor>(window_log)),
      buffer_(kBufferBytes, '\0') {}

ZstdSource::~ZstdSource() = default;

// Whether another frame follows; false at the end of the file. Its head is in the buffer then.
bool ZstdSource::begin_frame() {
  ZSTD_inBuffer& input = decompressor_->input;
  std::size_t size = input.size - input.pos;
  if (size < kLongestHead) {
    buffer_.replace(0, size, buffer_, input.pos, size);
    std::size_t got = 0;
    do {
      got = compressed_->read(buffer_.data() + size, buffer_.size() - size);
      size += got;
    } while (got > 0 && size < kLongestHead);
    input = {buffer_.data(), size, 0};
  }
  if (size == 0) {
    return false;
  }
  content_ = ZSTD_getFrameContentSize(buffer_.data() + input.pos, size);
  produced_ = 0;
  return true;
}

std::size_t ZstdSource::read(char* out, std::size_t size) {
  ZSTD_inBuffer& input = decompressor_->input;
  ZSTD_outBuffer output{out, size, 0};
  while (output.pos == 0) {
    if (!in_frame_ && !begin_frame()) {
      return 0;
    }
    if (input.pos == input.size) {
      input = {buffer_.data(), compressed_->read(buffer_.data(), buffer_.size()), 0};
    }
    // At the end of the file without input: the call before may have kept output back.
    const std::size_t result = ZSTD_decompressStream(decompressor_->context, &output, &input);
    if (ZSTD_isError(result) != 0) {
      throw Error(name_ + ": damaged Zstandard data: " + ZSTD_getErrorName(result));
    }
    produced_ += output.pos;
    in_frame_ = result != 0;
    // The library does not see it where an empty block ends such a frame.
    if (!in_frame_ && content_ < ZSTD_CONTENTSIZE_ERROR && produced_ != content_) {
      throw Error(
          name_ + ": damaged Zstandard data: a frame of " + std::to_string(produced_) +
          " bytes that states " + std::to_string(content_));
    }
    if (input.size == 0 && in_frame_ && output.pos == 0) {
      throw Error(name_ + ": truncated: the file ends inside a Zstandard frame");
    }
  }
  return output.pos;
}

} // namespace baton
