// SPDX-License-Identifier: Apache-2.0
// A GPU that is none: tensors of the CUDA device in host memory, operators run by the CPU's
// kernels. Built as libbaton_cuda.so it lets the unchanged program run with --device cuda anywhere,
// and finds what only a GPU would show: tensors of two devices in one operator, and waits for the
// device.
//
// PRETEND_GPU_REPORT names a file that gets the number of waits by cause, as JSON, at the end of
// the process; PRETEND_GPU_BYTES is the memory that a device has.
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/FakeGuardImpl.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

namespace {

using torch::jit::Stack;

constexpr int kDevices = 2;

/// Counts what would make the host wait for the device.
class Waits {
 public:
  void add(const std::string& cause) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++counts_[cause];
  }
  ~Waits() {
    const char* path = std::getenv("PRETEND_GPU_REPORT");
    if (path == nullptr) {
      return;
    }
    std::ofstream file(path);
    file << "{";
    const char* between = "";
    for (const auto& [cause, count] : counts_) {
      file << between << '"' << cause << "\": " << count;
      between = ", ";
    }
    file << "}\n";
  }

 private:
  std::mutex mutex_;
  std::map<std::string, int> counts_;
};

Waits& waits() {
  static Waits all;
  return all;
}

/// Memory of a device; what is not written to shows as NaN.
class DeviceMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    const char* limit = std::getenv("PRETEND_GPU_BYTES");
    if (limit != nullptr && used() + bytes > std::strtoull(limit, nullptr, 10)) {
      C10_THROW_ERROR(
          OutOfMemoryError,
          "CUDA out of memory. Tried to allocate " + std::to_string(bytes >> 20) +
              ".00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 1.50 MiB is free. "
              "Process 7 has 9.00 GiB memory in use. Including non-PyTorch memory, this process "
              "has 69.01 GiB memory in use. Of the allocated memory 68.00 GiB is allocated by "
              "PyTorch, and 2.00 MiB is reserved by PyTorch but unallocated. If reserved but");
    }
    used() += bytes;
    auto* block = new Block{std::vector<char>(bytes, '\xff'), bytes};
    return {
        block->data.data(),
        block,
        &release,
        c10::Device(c10::DeviceType::CUDA, guard().getDevice().index())};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }

 private:
  struct Block {
    std::vector<char> data;
    std::size_t bytes;
  };
  static std::atomic<std::size_t>& used() {
    static std::atomic<std::size_t> bytes{0};
    return bytes;
  }
  static c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>& guard() {
    static c10::impl::FakeGuardImpl<c10::DeviceType::CUDA> one;
    return one;
  }
  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    used() -= block->bytes;
    delete block;
  }
};

DeviceMemory& device_memory() {
  static auto* const memory = new DeviceMemory;
  return *memory;
}

/// Host memory that a device can read by itself.
class PinnedMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    auto* block = new std::vector<char>(bytes);
    const std::lock_guard<std::mutex> lock(mutex());
    blocks().insert(block->data());
    return {block->data(), block, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }
  static bool holds(const void* data) {
    const std::lock_guard<std::mutex> lock(mutex());
    return blocks().count(data) > 0;
  }

 private:
  static std::mutex& mutex() {
    static auto* const one = new std::mutex;
    return *one;
  }
  static std::set<const void*>& blocks() {
    static auto* const all = new std::set<const void*>;
    return *all;
  }
  static void release(void* context) {
    auto* block = static_cast<std::vector<char>*>(context);
    {
      const std::lock_guard<std::mutex> lock(mutex());
      blocks().erase(block->data());
    }
    delete block;
  }
};

struct PretendHooks final : at::CUDAHooksInterface {
  explicit PretendHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  at::DeviceIndex deviceCount() const override { return kDevices; }
  int getNumGPUs() const override { return kDevices; }
  at::DeviceIndex current_device() const override { return 0; }
  bool isPinnedPtr(const void* data) const override { return PinnedMemory::holds(data); }
  at::Allocator* getPinnedMemoryAllocator() const override {
    static auto* const memory = new PinnedMemory;
    return memory;
  }
  at::Allocator* getCUDADeviceAllocator() const override { return &device_memory(); }
};

/// A CPU tensor on the same memory.
at::Tensor on_host(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) {
    return tensor;
  }
  const at::TensorOptions options = at::TensorOptions().dtype(tensor.scalar_type());
  if (tensor.numel() == 0) {
    return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  }
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), options);
}

at::Tensor new_on_device(const at::Tensor& host, at::Device device) {
  const c10::DeviceGuard current(device);
  const at::Tensor tensor = at::detail::empty_strided_generic(
      host.sizes(),
      host.strides(),
      &device_memory(),
      c10::DispatchKeySet(c10::DispatchKey::CUDA),
      host.scalar_type());
  on_host(tensor).copy_(host);
  return tensor;
}

/// Arguments of an operator as CPU tensors, and the way back for its results.
class HostCall {
 public:
  explicit HostCall(const c10::OperatorHandle& op) : op_(op) {}

  at::Tensor take(const at::Tensor& tensor) {
    if (!tensor.defined()) {
      return tensor;
    }
    if (tensor.is_cpu()) {
      // A number in an expression is such a tensor; so is an index, which the device's kernels
      // take.
      const bool allowed = tensor.dim() == 0 || op_.schema().name().rfind("aten::index", 0) == 0;
      const bool ours = op_.schema().name().rfind("baton::", 0) == 0;
      host_tensor_ = host_tensor_ || ours || !allowed;
      return tensor;
    }
    check_device(tensor.device());
    at::Tensor alias = on_host(tensor);
    pairs_.emplace_back(alias, tensor);
    return alias;
  }

  void check() const {
    TORCH_CHECK(
        !host_tensor_ || !device_,
        op_.schema().name(),
        ": a CPU tensor among tensors of ",
        *device_);
  }

  at::Tensor give(const at::Tensor& result) const {
    for (const auto& [alias, original] : pairs_) {
      if (result.is_same(alias)) {
        if (alias.sizes() != original.sizes()) { // an output that came empty
          const at::Tensor whole = new_on_device(alias, original.device());
          original.unsafeGetTensorImpl()->shallow_copy_from(whole.getIntrusivePtr());
        }
        return original;
      }
    }
    return result.defined() && device_ ? new_on_device(result, *device_) : result;
  }

 private:
  void check_device(at::Device device) {
    TORCH_CHECK(!device_ || *device_ == device, op_.schema().name(), ": tensors of two devices");
    device_ = device;
  }

  const c10::OperatorHandle& op_;
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs_;
  std::optional<at::Device> device_;
  bool host_tensor_ = false;
};

/// Operators whose result has a size that only the device knows.
bool waits_for_result(const std::string& name) {
  static const std::set<std::string> names{
      "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2", "aten::bincount"};
  return names.count(name) > 0;
}

template <typename Map>
c10::IValue map_tensors(const c10::IValue& value, const Map& map) {
  if (value.isTensor()) {
    return map(value.toTensor());
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> mapped;
    for (const at::Tensor& tensor : value.toTensorVector()) {
      mapped.push_back(map(tensor));
    }
    return mapped;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> mapped;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
      mapped.push_back(tensor ? std::optional(map(*tensor)) : std::nullopt);
    }
    return mapped;
  }
  if (value.isDevice()) {
    return c10::Device(c10::DeviceType::CPU);
  }
  return value;
}

void run_on_host(const c10::OperatorHandle& op, Stack* stack) {
  HostCall call(op);
  const std::size_t count = op.schema().arguments().size();
  for (std::size_t i = stack->size() - count; i < stack->size(); ++i) {
    (*stack)[i] = map_tensors((*stack)[i], [&](const at::Tensor& one) { return call.take(one); });
  }
  call.check();
  if (waits_for_result(op.schema().name())) {
    waits().add(op.schema().name());
  }
  try {
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  } catch (c10::Error& error) {
    error.add_context(toString(op.operator_name()));
    throw;
  }
  const std::size_t results = op.schema().returns().size();
  for (std::size_t i = stack->size() - results; i < stack->size(); ++i) {
    (*stack)[i] = map_tensors((*stack)[i], [&](const at::Tensor& one) { return call.give(one); });
  }
}

at::Tensor empty(
    at::IntArrayRef size,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device> device,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard current(*device);
  return at::detail::empty_generic(
      size,
      &device_memory(),
      c10::DispatchKeySet(c10::DispatchKey::CUDA),
      dtype.value_or(at::kFloat),
      format);
}

at::Tensor empty_strided(
    at::IntArrayRef size,
    at::IntArrayRef stride,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device> device,
    std::optional<bool>) {
  const c10::DeviceGuard current(*device);
  return at::detail::empty_strided_generic(
      size,
      stride,
      &device_memory(),
      c10::DispatchKeySet(c10::DispatchKey::CUDA),
      dtype.value_or(at::kFloat));
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  const bool down = self.is_cpu();
  const bool up = source.is_cpu();
  // A 0-dim tensor travels as a kernel's argument only in fill_; a copy of it waits like any other.
  if (down || (up && !(non_blocking && source.is_pinned()))) {
    waits().add(down ? "copy to the host" : "copy of pageable memory");
  }
  on_host(self).copy_(on_host(source));
  return self;
}

at::Scalar local_scalar(const at::Tensor& self) {
  waits().add("item");
  return at::_local_scalar_dense(on_host(self));
}

/// Only GPUs have a product of bf16 matrices with an fp32 result.
at::Tensor& mm_dtype_out(
    const at::Tensor& self,
    const at::Tensor& mat2,
    at::ScalarType dtype,
    at::Tensor& out) {
  on_host(out).copy_(at::mm(on_host(self).to(dtype), on_host(mat2).to(dtype)));
  return out;
}

} // namespace

C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>);

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, PretendHooks);
} // namespace at

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("copy_", copy_);
  library.impl("_local_scalar_dense", local_scalar);
  library.impl("mm.dtype_out", mm_dtype_out);
  library.impl("as_strided", at::native::as_strided_tensorimpl);
  library.impl("view", TORCH_FN(at::native::view));
  library.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  library.impl("unfold", TORCH_FN(at::native::unfold));
}

REGISTER_ALLOCATOR(c10::DeviceType::CUDA, &device_memory());

extern "C" int baton_cuda_device_count() {
  return kDevices;
}
