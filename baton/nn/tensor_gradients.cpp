// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/tensor_gradients.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <ATen/core/grad_mode.h>

namespace baton::nn {
namespace {

constexpr std::int64_t kMessageBytes = 64 << 20; // of all ranks together

/// Stretches of gradients on their way through one message.
class Message {
 public:
  explicit Message(const parallel::Group& group) : group_(group) {}

  void add(const at::Tensor& values, const ParameterPiece& piece) {
    entries_.push_back({values, group_.rank() - piece.holder, piece.holders});
    length_ += values.numel();
    if (length_ * group_.size() * static_cast<std::int64_t>(sizeof(float)) >= kMessageBytes) {
      send();
    }
  }

  void send() {
    if (entries_.empty()) {
      return;
    }
    std::vector<at::Tensor> own;
    for (const Entry& entry : entries_) {
      own.push_back(entry.values.to(at::toOpMathType(entry.values.scalar_type())));
    }
    const at::Tensor all = group_.all_gather(at::cat(own));
    std::int64_t offset = 0;
    for (const Entry& entry : entries_) {
      const at::Tensor found = all.narrow(1, offset, entry.values.numel());
      at::Tensor sum = found[entry.first_holder].clone();
      for (int holder = 1; holder < entry.holders; ++holder) {
        sum.add_(found[entry.first_holder + holder]);
      }
      entry.values.copy_(sum);
      offset += entry.values.numel();
    }
    entries_.clear();
    length_ = 0;
  }

 private:
  struct Entry {
    at::Tensor values; ///< flat
    int first_holder;
    int holders;
  };

  const parallel::Group& group_;
  std::vector<Entry> entries_;
  std::int64_t length_ = 0;
};

} // namespace

bool has_other_holders(const ParameterStore& store, const ParameterSpec& spec) {
  const std::vector<ParameterPiece> pieces = store.pieces_of(spec);
  return std::any_of(
      pieces.begin(), pieces.end(), [](const ParameterPiece& piece) { return piece.holders > 1; });
}

void sum_tensor_gradients(
    const ParameterStore& store,
    const std::vector<parallel::BucketSlice>& slices,
    at::TensorList gradients) {
  const parallel::Group& group = store.tensor_ranks();
  if (group.alone()) {
    return;
  }
  const at::NoGradGuard no_grad;
  Message message(group);
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const parallel::BucketSlice& slice = slices[i];
    const Parameter& parameter = store.parameters()[slice.parameter];
    for (const ParameterPiece& piece : store.pieces_of(parameter.spec)) {
      if (piece.holders == 1) {
        continue;
      }
      for (const FlatRange& range : flat_ranges(piece, parameter.value.sizes())) {
        const std::int64_t begin = std::max(range.begin, slice.begin);
        const std::int64_t end = std::min(range.end, slice.begin + slice.length);
        if (begin < end) {
          message.add(gradients[i].view({-1}).narrow(0, begin - slice.begin, end - begin), piece);
        }
      }
    }
  }
  message.send();
}

void sum_tensor_gradients(const ParameterStore& store) {
  if (store.tensor_ranks().alone()) {
    return;
  }
  std::vector<parallel::BucketSlice> slices;
  std::vector<at::Tensor> gradients;
  for (const Parameter& parameter : store.parameters()) {
    at::Tensor value = parameter.value;
    at::Tensor& gradient = value.mutable_grad();
    gradient = gradient.defined() ? gradient.contiguous() : at::zeros_like(value);
    slices.push_back({.parameter = slices.size(), .length = value.numel()});
    gradients.push_back(gradient);
  }
  sum_tensor_gradients(store, slices, gradients);
}

} // namespace baton::nn
