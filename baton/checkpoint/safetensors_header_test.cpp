// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/safetensors_header.h"

#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "baton/base/error.h"

namespace baton::checkpoint {
namespace {

std::string prefix_of(std::uint64_t size) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) {
    bytes.push_back(static_cast<char>((size >> (8 * i)) & 0xff));
  }
  return bytes;
}

std::string error_of(const std::string& json, std::uint64_t data_size) {
  try {
    parse_safetensors_header(json, data_size);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(SafetensorsHeader, ReadsTensorsByOffsetAndMetadata) {
  const SafetensorsHeader header = parse_safetensors_header(
      R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
      R"("__metadata__":{"format":"pt"},)"
      R"("a":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
      R"("none":{"dtype":"I8","shape":[0,5],"data_offsets":[8,8]}}    )",
      20);
  ASSERT_EQ(header.tensors.size(), 3U);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[0].dtype, StoredDtype::kF64);
  EXPECT_TRUE(header.tensors[0].shape.empty());
  EXPECT_EQ(header.tensors[1].name, "none");
  EXPECT_EQ(header.tensors[2].name, "b");
  EXPECT_EQ(header.tensors[2].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(header.tensors[2].end, 20U);
  EXPECT_EQ(header.metadata.at("format"), "pt");
}

TEST(SafetensorsHeader, PrefixIsCheckedAgainstTheFile) {
  EXPECT_EQ(parse_safetensors_prefix(prefix_of(16), 24), 16U);
  EXPECT_THROW(parse_safetensors_prefix("short", 5), Error);
  EXPECT_THROW(parse_safetensors_prefix(prefix_of(17), 24), Error);
  EXPECT_THROW(parse_safetensors_prefix(prefix_of(200'000'000), 1'000'000'000), Error);
  EXPECT_THROW(
      parse_safetensors_prefix(prefix_of(std::numeric_limits<std::uint64_t>::max()), 24), Error);
}

TEST(SafetensorsHeader, EveryFaultIsNamed) {
  struct Case {
    std::string json;
    std::uint64_t data_size;
    std::string expected;
  };
  const std::string good = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const std::vector<Case> cases{
      {"", 0, "begin with '{'"},
      {"[1]", 0, "begin with '{'"},
      {R"({"a":)", 0, "not valid JSON at byte"},
      {R"({"a":)" + good + R"(,"a":)" + good + "}", 8, "\"a\" stands twice"},
      {R"({"a":3})", 0, "must be a JSON object"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", 8, "\"data_offsets\" is missing"},
      {R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", 8, "unknown dtype \"F31\""},
      {R"({"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", 8, "dtype must be a string"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "integers from 0"},
      {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8, "integers from 0"},
      {R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8, "list of integers"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "two rising"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}})", 8, "two rising"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "needs 12 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8, "unknown key \"x\""},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})",
       0,
       "overflows"},
      {R"({"a":{"dtype":"F32","shape":[0,4611686018427387904],"data_offsets":[0,0]}})",
       0,
       "overflows"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,0]}})",
       0,
       "integers"},
      {R"({"a":)" + good + "}", 7, "the file holds 7"},
      {R"({"a":)" + good + "}", 9, "end at byte 8"},
      {R"({"a":)" + good + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
       8,
       "inside the tensor before it"},
      {R"({"a":)" + good + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[10,14]}})",
       14,
       "leaving a hole"},
      {R"({"__metadata__":{"n":3}})", 0, "\"n\" must be a string"},
      {R"({"__metadata__":"x"})", 0, "object of strings"},
      {"{\"\xff\":1}", 0, "not valid JSON"},
      {R"({"a":1e999})", 0, "out of range"},
  };
  for (const Case& c : cases) {
    EXPECT_NE(error_of(c.json, c.data_size).find(c.expected), std::string::npos)
        << c.json << "\n gave: " << error_of(c.json, c.data_size);
  }
}

TEST(SafetensorsHeader, DeepNestingIsRefused) {
  EXPECT_NE(
      error_of("{\"a\":" + std::string(200'000, '['), 0).find("nests deeper"), std::string::npos);
}

TEST(SafetensorsHeader, MessagesStayOnOneLine) {
  const std::string message = error_of(R"({"a\nb":3})", 0);
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_NE(message.find("a\\nb"), std::string::npos);
}

TEST(SafetensorsHeader, PlacedTensorsAreAlignedAndReadBack) {
  SafetensorsHeader header = place_tensors(
      {{"bytes", StoredDtype::kU8, {3}},
       {"half", StoredDtype::kBF16, {5}},
       {"wide", StoredDtype::kF64, {2}},
       {"empty", StoredDtype::kF32, {0, 4}},
       {"single", StoredDtype::kF32, {}}});
  header.metadata["note"] = "two\nlines";
  const std::string bytes = serialise_safetensors_header(header);
  EXPECT_EQ(bytes.size() % 8, 0U);
  const std::uint64_t data_size = header.tensors.back().end;
  EXPECT_EQ(data_size, 16U + 4 + 10 + 3);
  const std::uint64_t json_size = parse_safetensors_prefix(bytes, bytes.size() + data_size);
  EXPECT_EQ(json_size + 8, bytes.size());
  const SafetensorsHeader again = parse_safetensors_header(bytes.substr(8), data_size);
  ASSERT_EQ(again.tensors.size(), header.tensors.size());
  for (const StoredTensor& tensor : again.tensors) {
    EXPECT_EQ(tensor.begin % dtype_size(tensor.dtype), 0U) << tensor.name;
  }
  EXPECT_EQ(again.metadata, header.metadata);
}

TEST(SafetensorsHeader, DuplicateAndReservedNamesAreRefused) {
  EXPECT_THROW(place_tensors({{"a", StoredDtype::kF32, {}}, {"a", StoredDtype::kF32, {}}}), Error);
  EXPECT_THROW(place_tensors({{"__metadata__", StoredDtype::kF32, {}}}), Error);
}

} // namespace
} // namespace baton::checkpoint
