// SPDX-License-Identifier: Apache-2.0
#include "baton/nn/tensor_gradients.h"

#include <vector>

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <ATen/core/grad_mode.h>

namespace baton::nn {
namespace {

constexpr std::int64_t kMessageBytes = 64 << 20;

/// Pieces of gradients on their way through one message. The blocks of a part lie side by side, so
/// that one sum over all ranks adds each among those that hold it: the others leave it zero.
class Message {
 public:
  explicit Message(const parallel::Group& group) : group_(group) {}

  void add(const at::Tensor& values, const ParameterPiece& piece) {
    const std::int64_t places = group_.size() / piece.holders;
    entries_.push_back({values, length_ + group_.rank() / piece.holders * values.numel()});
    length_ += places * values.numel();
    if (length_ * static_cast<std::int64_t>(sizeof(float)) >= kMessageBytes) {
      send();
    }
  }

  void send() {
    if (entries_.empty()) {
      return;
    }
    const at::Tensor& like = entries_.front().values;
    const at::Tensor sums =
        at::zeros({length_}, like.options().dtype(at::toOpMathType(like.scalar_type())));
    const auto place = [&](const Entry& entry) {
      return sums.narrow(0, entry.first, entry.values.numel()).view(entry.values.sizes());
    };
    for (const Entry& entry : entries_) {
      place(entry).copy_(entry.values);
    }
    group_.all_reduce_(sums);
    for (Entry& entry : entries_) {
      entry.values.copy_(place(entry));
    }
    entries_.clear();
    length_ = 0;
  }

 private:
  struct Entry {
    at::Tensor values;
    std::int64_t first;
  };

  const parallel::Group& group_;
  std::vector<Entry> entries_;
  std::int64_t length_ = 0;
};

} // namespace

void sum_tensor_gradients(const ParameterStore& store, at::TensorList gradients) {
  const parallel::Group& group = store.tensor_ranks();
  if (group.alone()) {
    return;
  }
  const at::NoGradGuard no_grad;
  Message message(group);
  std::size_t next = 0;
  for (const Parameter& parameter : store.parameters()) {
    const at::Tensor& gradient = gradients[next++];
    for (const ParameterPiece& piece : store.pieces_of(parameter.spec)) {
      if (piece.holders > 1) {
        message.add(piece.of(gradient), piece);
      }
    }
  }
  message.send();
}

void sum_tensor_gradients(const ParameterStore& store) {
  if (store.tensor_ranks().alone()) {
    return;
  }
  std::vector<at::Tensor> gradients;
  gradients.reserve(store.parameters().size());
  for (const Parameter& parameter : store.parameters()) {
    at::Tensor value = parameter.value;
    if (!value.grad().defined()) {
      value.mutable_grad() = at::zeros_like(value);
    }
    gradients.push_back(value.grad());
  }
  sum_tensor_gradients(store, gradients);
}

} // namespace baton::nn
