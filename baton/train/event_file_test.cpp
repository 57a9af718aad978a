// SPDX-License-Identifier: Apache-2.0
#include "baton/train/event_file.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/base/file.h"

namespace baton::train {
namespace {

namespace fs = std::filesystem;

// One bit at a time, straight from the definition.
std::uint32_t plain_masked_crc32c(std::string_view text) {
  std::uint32_t crc = 0xffffffff;
  for (const char c : text) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
    }
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

template <typename Number>
Number take(std::string_view& bytes) {
  Number value{};
  if (bytes.size() < sizeof(value)) {
    throw std::runtime_error("cut short");
  }
  std::memcpy(&value, bytes.data(), sizeof(value));
  bytes.remove_prefix(sizeof(value));
  return value;
}

std::string_view take_bytes(std::string_view& bytes, std::size_t size) {
  if (bytes.size() < size) {
    throw std::runtime_error("cut short");
  }
  const std::string_view part = bytes.substr(0, size);
  bytes.remove_prefix(size);
  return part;
}

std::uint64_t take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = take<unsigned char>(bytes);
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) {
      return value;
    }
  }
}

std::vector<std::string> records_of(std::string_view bytes) {
  std::vector<std::string> records;
  while (!bytes.empty()) {
    const std::string_view length_bytes = bytes.substr(0, 8);
    const auto length = take<std::uint64_t>(bytes);
    EXPECT_EQ(take<std::uint32_t>(bytes), plain_masked_crc32c(length_bytes));
    records.emplace_back(take_bytes(bytes, length));
    EXPECT_EQ(take<std::uint32_t>(bytes), plain_masked_crc32c(records.back()));
  }
  return records;
}

// Fields of a message by number; numbers keep their raw bits.
struct Field {
  std::uint64_t number = 0;
  std::string bytes;
};

std::multimap<int, Field> fields_of(std::string_view message) {
  std::multimap<int, Field> fields;
  while (!message.empty()) {
    const auto key = static_cast<int>(take_varint(message));
    Field field;
    switch (key & 7) {
      case 0:
        field.number = take_varint(message);
        break;
      case 1:
        field.number = take<std::uint64_t>(message);
        break;
      case 2:
        field.bytes = take_bytes(message, take_varint(message));
        break;
      case 5:
        field.number = take<std::uint32_t>(message);
        break;
      default:
        throw std::runtime_error("unknown wire type");
    }
    fields.emplace(key >> 3, field);
  }
  return fields;
}

double double_from(std::uint64_t bits) {
  double value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

float float_from(std::uint64_t bits) {
  const auto low = static_cast<std::uint32_t>(bits);
  float value = 0;
  std::memcpy(&value, &low, sizeof(value));
  return value;
}

class EventFileTest : public ::testing::Test {
 protected:
  EventFileTest() {
    // For a look with TensorBoard itself: BATON_TEST_EVENTS names a folder that stays.
    if (const char* kept = std::getenv("BATON_TEST_EVENTS")) {
      folder_ = kept;
      keep_ = true;
      return;
    }
    std::string pattern = (fs::temp_directory_path() / "baton-test-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~EventFileTest() override {
    if (!keep_) {
      fs::remove_all(folder_);
    }
  }

  fs::path folder_;
  bool keep_ = false;
};

using Events = EventFileTest;

TEST_F(Events, RecordsHoldTheScalars) {
  fs::path path;
  {
    EventFile file(folder_ / "events", 1, 1'700'000'000.5);
    path = file.path();
    file.append(1, 1'700'000'001.25, {{"train/loss", 5.5}, {"train/lr", 1e-4}});
    file.append(300, 1'700'000'002, {{"valid/loss", -2.25}});
    file.append(std::int64_t{1} << 40, 1'700'000'003, {});
  }
  EXPECT_EQ(path.filename().string().rfind("events.out.tfevents.1700000000.", 0), 0U);
  const std::vector<std::string> records = records_of(read_file(path.string()));
  ASSERT_EQ(records.size(), 5U);
  const auto version = fields_of(records[0]);
  EXPECT_EQ(double_from(version.find(1)->second.number), 1'700'000'000.5);
  EXPECT_EQ(version.find(3)->second.bytes, "brain.Event:2");
  const auto start = fields_of(records[1]);
  EXPECT_EQ(start.find(2)->second.number, 1U);
  EXPECT_EQ(fields_of(start.find(7)->second.bytes).find(1)->second.number, 1U);

  const auto first = fields_of(records[2]);
  EXPECT_EQ(double_from(first.find(1)->second.number), 1'700'000'001.25);
  EXPECT_EQ(first.find(2)->second.number, 1U);
  const auto summary = fields_of(first.find(5)->second.bytes);
  ASSERT_EQ(summary.count(1), 2U);
  const auto loss = fields_of(summary.find(1)->second.bytes);
  EXPECT_EQ(loss.find(1)->second.bytes, "train/loss");
  EXPECT_EQ(float_from(loss.find(2)->second.number), 5.5F);
  const auto lr = fields_of(std::next(summary.find(1))->second.bytes);
  EXPECT_EQ(float_from(lr.find(2)->second.number), 1e-4F);
  EXPECT_EQ(fields_of(records[3]).find(2)->second.number, 300U);
  EXPECT_EQ(fields_of(records[4]).find(2)->second.number, std::uint64_t{1} << 40);
}

TEST_F(Events, AResumedRunSaysFromWhichStepItBegins) {
  const fs::path folder = folder_ / "resumed";
  {
    EventFile file(folder, 1, 1'700'000'000);
    for (std::int64_t step = 1; step <= 10; ++step) {
      file.append(step, 1'700'000'001, {{"train/loss", 1.0}});
    }
  }
  EventFile file(folder, 6, 1'700'000'100);
  for (std::int64_t step = 6; step <= 12; ++step) {
    file.append(step, 1'700'000'101, {{"train/loss", 2.0}});
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 2);
  const auto start = fields_of(records_of(read_file(file.path().string()))[1]);
  EXPECT_EQ(start.find(2)->second.number, 6U);
  EXPECT_EQ(start.count(7), 1U);
}

TEST_F(Events, AFolderThatCannotBeMadeIsAnError) {
  write_file_atomically((folder_ / "taken").string(), "x");
  EXPECT_THROW(EventFile(folder_ / "taken" / "events", 1, 0.0), Error);
}

} // namespace
} // namespace baton::train
