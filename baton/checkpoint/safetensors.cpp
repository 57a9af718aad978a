// SPDX-License-Identifier: Apache-2.0
#include "baton/checkpoint/safetensors.h"

#include <array>
#include <bit>
#include <sstream>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <sys/mman.h>

#include "baton/base/error.h"
#include "baton/checkpoint/strict_json.h"

namespace baton::checkpoint {
namespace {

static_assert(
    std::endian::native == std::endian::little,
    "safetensors data is little-endian and is not swapped");

constexpr std::array<std::pair<StoredDtype, at::ScalarType>, 15> kScalarTypes{{
    {StoredDtype::kBool, at::kBool},
    {StoredDtype::kU8, at::kByte},
    {StoredDtype::kI8, at::kChar},
    {StoredDtype::kF8E4M3, at::kFloat8_e4m3fn},
    {StoredDtype::kF8E5M2, at::kFloat8_e5m2},
    {StoredDtype::kI16, at::kShort},
    {StoredDtype::kU16, at::kUInt16},
    {StoredDtype::kF16, at::kHalf},
    {StoredDtype::kBF16, at::kBFloat16},
    {StoredDtype::kI32, at::kInt},
    {StoredDtype::kU32, at::kUInt32},
    {StoredDtype::kF32, at::kFloat},
    {StoredDtype::kI64, at::kLong},
    {StoredDtype::kU64, at::kUInt64},
    {StoredDtype::kF64, at::kDouble},
}};

std::shared_ptr<char> map_file(const FileReader& file) {
  const auto size = static_cast<std::size_t>(file.size());
  // Private and writable: a write to a view neither reaches the file nor ends the process. Without
  // a reservation, since hardly any page is ever written to.
  void* start = mmap(
      nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.descriptor(), 0);
  if (start == MAP_FAILED) {
    throw RunError(file.path().string() + ": cannot map the file into memory");
  }
  return {static_cast<char*>(start), [size](char* address) { munmap(address, size); }};
}

std::string text_of(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

} // namespace

StoredDtype stored_dtype(at::ScalarType dtype) {
  for (const auto& [stored, scalar] : kScalarTypes) {
    if (scalar == dtype) {
      return stored;
    }
  }
  TORCH_CHECK(false, "safetensors files cannot hold tensors of dtype ", dtype);
}

at::ScalarType scalar_type(StoredDtype dtype) {
  return kScalarTypes[static_cast<std::size_t>(dtype)].second;
}

void check_target(
    const std::string& where,
    StoredDtype dtype,
    at::IntArrayRef shape,
    const at::Tensor& target,
    DtypeRule rule) {
  if (target.sizes() != shape) {
    throw Error(where + " has shape " + text_of(shape) + ", wanted is " + text_of(target.sizes()));
  }
  if (rule == DtypeRule::kMustMatch && target.scalar_type() != scalar_type(dtype)) {
    throw Error(
        where + " has dtype " + c10::toString(scalar_type(dtype)) + ", wanted is " +
        c10::toString(target.scalar_type()));
  }
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(std::make_shared<const FileReader>(path)) {
  try {
    std::string prefix(
        static_cast<std::size_t>(std::min(file_->size(), kSafetensorsPrefixSize)), '\0');
    file_->read_at(0, prefix.data(), prefix.size());
    std::string json(
        static_cast<std::size_t>(parse_safetensors_prefix(prefix, file_->size())), '\0');
    file_->read_at(kSafetensorsPrefixSize, json.data(), json.size());
    data_begin_ = kSafetensorsPrefixSize + json.size();
    header_ = parse_safetensors_header(json, file_->size() - data_begin_);
  } catch (const RunError&) {
    throw;
  } catch (const Error& error) {
    throw Error(path.string() + ": " + error.what());
  }
  for (const StoredTensor& tensor : header_.tensors) {
    by_name_.emplace(tensor.name, &tensor);
  }
  mapping_ = map_file(*file_);
}

bool SafetensorsFile::contains(std::string_view name) const {
  return by_name_.count(name) > 0;
}

const StoredTensor& SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) {
    throw Error(file_->path().string() + ": holds no tensor " + in_quotes(name));
  }
  return *found->second;
}

at::Tensor SafetensorsFile::view(std::string_view name) const {
  const StoredTensor& stored = find(name);
  const auto options = at::TensorOptions().dtype(scalar_type(stored.dtype));
  const std::uint64_t begin = data_begin_ + stored.begin;
  if (stored.begin == stored.end || begin % dtype_size(stored.dtype) != 0) {
    at::Tensor copy = at::empty(stored.shape, options);
    read_into(name, copy, DtypeRule::kMustMatch);
    return copy;
  }
  return at::from_blob(
      mapping_.get() + begin, stored.shape, [keep = mapping_](void*) {}, options);
}

void SafetensorsFile::read_into(std::string_view name, const at::Tensor& target, DtypeRule rule)
    const {
  const StoredTensor& stored = find(name);
  const std::string where = file_->path().string() + ": tensor " + in_quotes(name);
  check_target(where, stored.dtype, stored.shape, target, rule);
  const at::ScalarType dtype = scalar_type(stored.dtype);
  const bool direct = target.is_cpu() && target.scalar_type() == dtype && target.is_contiguous();
  const at::NoGradGuard no_grad;
  const at::Tensor filled = direct ? target : at::empty(stored.shape, at::TensorOptions(dtype));
  file_->read_at(
      data_begin_ + stored.begin,
      filled.data_ptr(),
      static_cast<std::size_t>(stored.end - stored.begin));
  if (!direct) {
    target.copy_(filled);
  }
}

FileRecord write_safetensors(
    const std::filesystem::path& path,
    const std::vector<NamedTensor>& tensors,
    const std::map<std::string, std::string>& metadata) {
  std::vector<StoredTensor> entries;
  std::unordered_map<std::string_view, const at::Tensor*> by_name;
  for (const NamedTensor& named : tensors) {
    const at::IntArrayRef shape = named.tensor.sizes();
    const at::ScalarType dtype = named.dtype.value_or(named.tensor.scalar_type());
    entries.push_back({named.name, stored_dtype(dtype), shape.vec()});
    by_name.emplace(named.name, &named.tensor);
  }
  SafetensorsHeader header = place_tensors(std::move(entries));
  header.metadata = metadata;
  CheckedFileWriter file(path);
  file.write(serialise_safetensors_header(header));
  for (const StoredTensor& stored : header.tensors) {
    const at::Tensor dense =
        by_name.at(stored.name)->detach().to(at::kCPU, scalar_type(stored.dtype)).contiguous();
    file.write(dense.const_data_ptr(), static_cast<std::size_t>(stored.end - stored.begin));
  }
  return file.commit();
}

} // namespace baton::checkpoint
