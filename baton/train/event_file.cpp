// SPDX-License-Identifier: Apache-2.0
#include "baton/train/event_file.h"

#include <array>
#include <cstring>

#include <unistd.h>

#include "baton/base/crc32c.h"
#include "baton/base/file.h"

namespace baton::train {
namespace {

// Numbers of the fields in event.proto and summary.proto.
constexpr int kEventWallTime = 1;
constexpr int kEventStep = 2;
constexpr int kEventFileVersion = 3;
constexpr int kEventSummary = 5;
constexpr int kEventSessionLog = 7;
constexpr int kSessionLogStatus = 1;
constexpr int kSessionLogStart = 1;
constexpr int kSummaryValue = 1;
constexpr int kValueTag = 1;
constexpr int kValueSimple = 2;

// Wire types of protocol buffers.
constexpr int kVarint = 0;
constexpr int kFixed64 = 1;
constexpr int kBytes = 2;
constexpr int kFixed32 = 5;

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) {
    out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  }
  out.push_back(static_cast<char>(value));
}

template <typename Number>
void put_fixed(std::string& out, Number value) {
  char bytes[sizeof(Number)];
  std::memcpy(bytes, &value, sizeof(Number));
  out.append(bytes, sizeof(Number));
}

void put_key(std::string& out, int field, int wire_type) {
  put_varint(out, static_cast<std::uint64_t>(field << 3 | wire_type));
}

void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out.append(bytes);
}

std::string event_at(std::int64_t step, double wall_time) {
  std::string event;
  put_key(event, kEventWallTime, kFixed64);
  put_fixed(event, wall_time);
  put_key(event, kEventStep, kVarint);
  put_varint(event, static_cast<std::uint64_t>(step));
  return event;
}

// A CRC over bytes that hold CRCs is weak, so the format stores them turned and shifted.
std::uint32_t masked_crc32c(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes.data(), bytes.size());
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8;
}

std::filesystem::path new_file(const std::filesystem::path& folder, double wall_time) {
  make_folders(folder.string());
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) {
    host[0] = '\0';
  }
  return folder / ("events.out.tfevents." + std::to_string(static_cast<std::int64_t>(wall_time)) +
                   "." + host.data() + "." + std::to_string(getpid()));
}

} // namespace

EventFile::EventFile(const std::filesystem::path& folder, std::int64_t first_step, double wall_time)
    : file_(new_file(folder, wall_time)) {
  std::string version = event_at(0, wall_time);
  put_bytes(version, kEventFileVersion, "brain.Event:2");
  append_record(version);
  std::string session;
  put_key(session, kSessionLogStatus, kVarint);
  put_varint(session, kSessionLogStart);
  std::string start = event_at(first_step, wall_time);
  put_bytes(start, kEventSessionLog, session);
  append_record(start);
}

void EventFile::append(std::int64_t step, double wall_time, const Scalars& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    put_bytes(value, kValueTag, tag);
    put_key(value, kValueSimple, kFixed32);
    put_fixed(value, static_cast<float>(number));
    put_bytes(summary, kSummaryValue, value);
  }
  std::string event = event_at(step, wall_time);
  put_bytes(event, kEventSummary, summary);
  append_record(event);
}

void EventFile::append_record(std::string_view event) {
  std::string record;
  put_fixed(record, static_cast<std::uint64_t>(event.size()));
  put_fixed(record, masked_crc32c(record));
  record.append(event);
  put_fixed(record, masked_crc32c(event));
  file_.append(record);
}

} // namespace baton::train
