// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/safetensors.h"

#include <csignal>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "baton/base/error.h"
#include "baton/checkpoint/scratch_folder.h"

namespace baton::checkpoint {
namespace {

const std::vector<at::ScalarType> kDtypes{
    at::kDouble,
    at::kFloat,
    at::kBFloat16,
    at::kHalf,
    at::kLong,
    at::kInt,
    at::kShort,
    at::kChar,
    at::kByte,
    at::kBool,
    at::kFloat8_e4m3fn,
    at::kFloat8_e5m2,
    at::kUInt16,
    at::kUInt32,
    at::kUInt64};

at::Tensor values(at::IntArrayRef shape, at::ScalarType dtype) {
  return (at::arange(at::IntArrayRef(shape).empty() ? 1 : c10::multiply_integers(shape)) * 7 % 23)
      .reshape(shape)
      .to(dtype);
}

bool equal_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
         (a.numel() == 0 || std::memcmp(
                                a.contiguous().const_data_ptr(),
                                b.contiguous().const_data_ptr(),
                                static_cast<std::size_t>(a.nbytes())) == 0);
}

TEST(Safetensors, EveryDtypeAndShapeReadsBackToTheBit) {
  const ScratchFolder folder;
  const auto path = folder.path() / "all.safetensors";
  std::vector<NamedTensor> tensors;
  for (const at::ScalarType dtype : kDtypes) {
    for (const std::vector<std::int64_t>& shape :
         {std::vector<std::int64_t>{}, {0}, {5}, {3, 0, 2}, {3, 5}}) {
      tensors.push_back(
          {std::string(c10::toString(dtype)) + std::to_string(tensors.size()),
           values(shape, dtype)});
    }
  }
  const FileRecord record = write_safetensors(path, tensors, {{"made by", "test"}});
  const SafetensorsFile file(path);
  EXPECT_EQ(record.bytes, file.file().size());
  EXPECT_EQ(record.crc32c, file.file().crc32c());
  EXPECT_EQ(file.header().metadata.at("made by"), "test");
  EXPECT_EQ(file.header().tensors.size(), tensors.size());
  for (const NamedTensor& named : tensors) {
    EXPECT_TRUE(equal_bits(file.view(named.name), named.tensor)) << named.name;
    at::Tensor target = at::empty_like(named.tensor);
    file.read_into(named.name, target, DtypeRule::kMustMatch);
    EXPECT_TRUE(equal_bits(target, named.tensor)) << named.name;
  }
}

TEST(Safetensors, StridedTensorsAreWrittenAndFilled) {
  const ScratchFolder folder;
  const auto path = folder.path() / "x.safetensors";
  const at::Tensor wide = values({6, 8}, at::kFloat);
  write_safetensors(path, {{"t", wide.t()}, {"slice", wide.slice(1, 2, 5)}});
  const SafetensorsFile file(path);
  EXPECT_TRUE(equal_bits(file.view("t"), wide.t()));
  EXPECT_TRUE(equal_bits(file.view("slice"), wide.slice(1, 2, 5)));
  const at::Tensor target = at::zeros({6, 8});
  file.read_into("slice", target.slice(1, 5, 8), DtypeRule::kMustMatch);
  EXPECT_TRUE(equal_bits(target.slice(1, 5, 8), wide.slice(1, 2, 5)));
  EXPECT_EQ(target.slice(1, 0, 5).abs().sum().item<double>(), 0.0);
}

TEST(Safetensors, LeavesThatRequireGradAreFilled) {
  const ScratchFolder folder;
  const auto path = folder.path() / "x.safetensors";
  const at::Tensor wide = values({6, 8}, at::kFloat);
  write_safetensors(path, {{"w", wide.clone().requires_grad_(true)}});
  const at::Tensor leaf = at::zeros({6, 8}).requires_grad_(true);
  SafetensorsFile(path).read_into("w", leaf, DtypeRule::kMustMatch);
  EXPECT_TRUE(equal_bits(leaf.detach(), wide));
  EXPECT_TRUE(leaf.is_leaf());
}

TEST(Safetensors, AViewOutlivesItsFileAndWritesStayPrivate) {
  const ScratchFolder folder;
  const auto path = folder.path() / "x.safetensors";
  const at::Tensor x = values({1000}, at::kFloat);
  write_safetensors(path, {{"x", x}});
  at::Tensor view;
  {
    const SafetensorsFile file(path);
    view = file.view("x");
  }
  EXPECT_TRUE(equal_bits(view, x));
  view.fill_(5);
  EXPECT_TRUE(equal_bits(SafetensorsFile(path).view("x"), x));
}

TEST(Safetensors, DtypesConvertOnlyOnRequest) {
  const ScratchFolder folder;
  const auto path = folder.path() / "x.safetensors";
  const at::Tensor x = values({4, 3}, at::kFloat);
  write_safetensors(path, {{"x", x}});
  const SafetensorsFile file(path);
  const at::Tensor target = at::empty({4, 3}, at::kBFloat16);
  const std::string message =
      message_of([&] { file.read_into("x", target, DtypeRule::kMustMatch); });
  EXPECT_NE(message.find("x.safetensors: tensor \"x\" has dtype Float"), std::string::npos)
      << message;
  file.read_into("x", target, DtypeRule::kConvert);
  EXPECT_TRUE(equal_bits(target, x.to(at::kBFloat16)));
}

TEST(Safetensors, WrongNameAndShapeAreNamed) {
  const ScratchFolder folder;
  const auto path = folder.path() / "x.safetensors";
  write_safetensors(path, {{"x", values({4, 3}, at::kFloat)}});
  const SafetensorsFile file(path);
  EXPECT_NE(message_of([&] { file.view("y"); }).find("holds no tensor \"y\""), std::string::npos);
  const at::Tensor target = at::empty({3, 4});
  EXPECT_NE(
      message_of([&] {
        file.read_into("x", target, DtypeRule::kConvert);
      }).find("has shape [4, 3], wanted is [3, 4]"),
      std::string::npos);
  EXPECT_NE(
      message_of([&] { SafetensorsFile(folder.path() / "none"); }).find("cannot open"),
      std::string::npos);
  EXPECT_NE(
      message_of([&] { SafetensorsFile(folder.path()); }).find("not a regular file"),
      std::string::npos);
}

TEST(Safetensors, AnUnalignedForeignFileIsRead) {
  const ScratchFolder folder;
  const auto path = folder.path() / "x.safetensors";
  std::string json = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                     R"("b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  const float numbers[2] = {1.5F, -2.25F};
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(json.size());
  ASSERT_LT(json.size(), 128U);
  write_bytes(path, bytes + json + "\x07" + std::string(reinterpret_cast<const char*>(numbers), 8));
  const SafetensorsFile file(path);
  EXPECT_TRUE(equal_bits(file.view("b"), at::tensor({1.5F, -2.25F})));
  EXPECT_EQ(file.view("a").item<int>(), 7);
}

TEST(Safetensors, CutAtAnyByteItIsRefused) {
  const ScratchFolder folder;
  const auto path = folder.path() / "x.safetensors";
  write_safetensors(path, {{"x", values({4, 3}, at::kFloat)}});
  const std::string bytes = read_bytes(path);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    write_bytes(path, bytes.substr(0, size));
    EXPECT_THROW(SafetensorsFile{path}, Error) << size;
  }
  write_bytes(path, bytes + "x");
  EXPECT_THROW(SafetensorsFile{path}, Error);
}

TEST(Safetensors, ARefusedWriteLeavesTheOldFile) {
  const ScratchFolder folder;
  const auto path = folder.path() / "x.safetensors";
  write_safetensors(path, {{"x", values({4, 3}, at::kFloat)}});
  const std::string bytes = read_bytes(path);
  const at::Tensor x = at::zeros({2});
  EXPECT_THROW(write_safetensors(path, {{"y", x}, {"y", x}}), Error);
  EXPECT_THROW(write_safetensors(path, {{"y", at::zeros({2}, at::kComplexFloat)}}), c10::Error);
  EXPECT_EQ(read_bytes(path), bytes);
  EXPECT_THROW(write_safetensors(folder.path() / "no" / "x", {{"y", x}}), Error);
}

} // namespace
} // namespace baton::checkpoint
