// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/manifest.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "baton/base/crc32c.h"
#include "baton/base/error.h"
#include "baton/checkpoint/scratch_folder.h"

namespace baton::checkpoint {
namespace {

using Json = nlohmann::json;

Manifest example() {
  Manifest manifest;
  manifest.step = 120;
  manifest.program = "1.2.3";
  manifest.files["p0.safetensors"] = {100, 0x0000beef};
  manifest.files["p1.safetensors"] = {(std::uint64_t{1} << 40) + 1, 0xffffffff};
  manifest.parameters["w"] = {
      StoredDtype::kBF16,
      {4, 6},
      {{"p0.safetensors", "w", {0, 0}, {4, 2}}, {"p1.safetensors", "w", {0, 2}, {4, 4}}}};
  manifest.parameters["scalar"] = {StoredDtype::kF32, {}, {{"p0.safetensors", "scalar", {}, {}}}};
  manifest.optimizer_states["w.m"] = {
      StoredDtype::kF32, {4, 6}, {{"p0.safetensors", "w.m", {0, 0}, {4, 6}}}};
  return manifest;
}

// The message for a manifest that was changed by someone who also fixed its checksum.
std::string message_after(const std::function<void(Json&)>& change) {
  Json root = Json::parse(serialise_manifest(example()));
  root.erase("manifest_crc32c");
  change(root);
  const std::string body = root.dump();
  char digits[9];
  std::snprintf(digits, sizeof(digits), "%08x", crc32c(body.data(), body.size()));
  root["manifest_crc32c"] = digits;
  return message_of([&] { parse_manifest(root.dump()); });
}

TEST(Manifest, ReadsBack) {
  const Manifest manifest = parse_manifest(serialise_manifest(example()));
  EXPECT_EQ(manifest.step, 120);
  EXPECT_EQ(manifest.program, "1.2.3");
  EXPECT_EQ(manifest.files, example().files);
  const TensorRecord& w = manifest.parameters.at("w");
  EXPECT_EQ(w.dtype, StoredDtype::kBF16);
  EXPECT_EQ(w.shape, (std::vector<std::int64_t>{4, 6}));
  ASSERT_EQ(w.pieces.size(), 2U);
  EXPECT_EQ(w.pieces[1].file, "p1.safetensors");
  EXPECT_EQ(w.pieces[1].start, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(manifest.optimizer_states.size(), 1U);
  EXPECT_EQ(serialise_manifest(manifest), serialise_manifest(example()));
}

TEST(Manifest, PartsOfSeveralWritersMakeOne) {
  Manifest first = example();
  Manifest second = example();
  first.files.erase("p1.safetensors");
  first.parameters["w"].pieces.pop_back();
  second.files.erase("p0.safetensors");
  second.parameters.erase("scalar");
  second.optimizer_states.clear();
  auto& pieces = second.parameters["w"].pieces;
  pieces.erase(pieces.begin());
  const std::string text = serialise_manifest(first);
  EXPECT_NE(message_of([&] { parse_manifest(text); }), "");
  const Manifest read = parse_manifest_part(text);
  EXPECT_EQ(serialise_manifest(join_manifests({read, second})), serialise_manifest(example()));
  EXPECT_EQ(
      message_of([&] {
        join_manifests({read, read});
      }),
      "files[\"p0.safetensors\"]: two writers have it");
  EXPECT_NE(
      message_of([&] { join_manifests({read}); }).find("pieces hold 16 of 48"), std::string::npos);
  second.parameters["w"].dtype = StoredDtype::kF32;
  EXPECT_EQ(
      message_of([&] {
        join_manifests({read, second});
      }),
      "parameters[\"w\"]: its writers disagree on dtype or shape");
}

TEST(Manifest, AnyChangedByteOfTheContentIsNoticed) {
  const std::string text = serialise_manifest(example());
  const Json content = Json::parse(text);
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (const char mask : {'\x01', '\x10', '\x02'}) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ mask);
      // White space between values may change without changing what the manifest says.
      if (Json::accept(damaged) && Json::parse(damaged) == content) {
        continue;
      }
      EXPECT_THROW(parse_manifest(damaged), Error) << damaged.substr(i > 20 ? i - 20 : 0, 40);
    }
  }
}

TEST(Manifest, EveryFaultIsNamed) {
  using Change = std::function<void(Json&)>;
  const std::vector<std::pair<Change, std::string>> cases{
      {[](Json& j) { j["format"] = "other"; }, "no checkpoint of Baton"},
      {[](Json& j) {
         j = Json::array();
         j.push_back(1);
         j = Json{{"a", 1}};
       },
       "format"},
      {[](Json& j) { j["version"] = 2; }, "format version 2 is not known"},
      {[](Json& j) { j["extra"] = 2; }, "\"extra\" is not a key"},
      {[](Json& j) { j.erase("step"); }, "step is missing"},
      {[](Json& j) { j["step"] = -1; }, "step must be an integer"},
      {[](Json& j) { j["program"] = 1; }, "program must be a string"},
      {[](Json& j) {
         j["files"]["../x"] = {{"bytes", 1}, {"crc32c", "00000000"}};
       },
       "not a plain file name"},
      {[](Json& j) { j["files"]["p0.safetensors"]["crc32c"] = "12"; },
       "files[\"p0.safetensors\"].crc32c must be 8"},
      {[](Json& j) { j["files"]["p0.safetensors"]["crc32c"] = "1234567g"; }, "must be 8"},
      {[](Json& j) { j["files"]["p0.safetensors"].erase("bytes"); },
       "files[\"p0.safetensors\"].bytes is missing"},
      {[](Json& j) { j["parameters"]["w"]["dtype"] = "F1"; },
       "parameters[\"w\"].dtype: unknown dtype \"F1\""},
      {[](Json& j) { j["parameters"]["w"]["shape"][0] = 1.5; },
       "parameters[\"w\"].shape[0] must be an integer"},
      {[](Json& j) {
         j["parameters"]["w"]["shape"] = {1ULL << 62, 4};
       },
       "overflows"},
      {[](Json& j) { j["parameters"]["w"]["pieces"][0]["file"] = "p9"; },
       "pieces[0].file: \"p9\" is not listed"},
      {[](Json& j) {
         j["parameters"]["w"]["pieces"][1]["start"] = {0, 1};
       },
       "pieces[1] overlaps pieces[0]"},
      {[](Json& j) {
         j["parameters"]["w"]["pieces"][1]["start"] = {0, 3};
       },
       "pieces[1] reaches outside the tensor in dim 1"},
      {[](Json& j) { j["parameters"]["w"]["pieces"][1]["start"] = {0}; }, "as many dims"},
      {[](Json& j) { j["parameters"]["w"]["pieces"].erase(1); }, "hold 16 of 48 bytes"},
      {[](Json& j) { j["optimizer_states"]["w.m"]["pieces"] = 3; },
       "optimizer_states[\"w.m\"].pieces must be a list"},
  };
  for (const auto& [change, expected] : cases) {
    const std::string message = message_after(change);
    EXPECT_NE(message.find(expected), std::string::npos) << expected << "\n gave: " << message;
  }
}

TEST(Manifest, EmptyTensorsNeedNoPiece) {
  Manifest manifest = example();
  manifest.parameters["empty"] = {StoredDtype::kF32, {0, 3}, {}};
  EXPECT_NO_THROW(parse_manifest(serialise_manifest(manifest)));
}

} // namespace
} // namespace baton::checkpoint
