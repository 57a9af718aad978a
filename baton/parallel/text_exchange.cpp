// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/text_exchange.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include <ATen/ATen.h>

#include "baton/parallel/peer_error.h"

namespace baton::parallel {

std::vector<std::string>
all_gather_text(const Group& group, const std::string& text, c10::Device device) {
  if (group.alone()) {
    return {text};
  }
  const auto own = static_cast<std::int64_t>(text.size());
  const at::Tensor sizes =
      group.all_gather(at::full({1}, own, at::TensorOptions(at::kLong).device(device))).cpu();
  const std::int64_t longest = std::max<std::int64_t>(1, sizes.max().item<std::int64_t>());
  at::Tensor bytes = at::zeros({longest}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr<std::uint8_t>(), text.data(), text.size());
  const at::Tensor all = group.all_gather(bytes.to(device)).cpu();
  std::vector<std::string> texts;
  for (std::int64_t rank = 0; rank < group.size(); ++rank) {
    const at::Tensor row = all[rank];
    texts.emplace_back(
        reinterpret_cast<const char*>(row.const_data_ptr<std::uint8_t>()),
        static_cast<std::size_t>(sizes[rank].item<std::int64_t>()));
  }
  return texts;
}

std::vector<std::string>
do_together(const Group& group, c10::Device device, const std::function<std::string()>& work) {
  constexpr char kDone = '+';
  constexpr char kFailed = '-';
  std::exception_ptr failure;
  std::string said;
  try {
    said = kDone + work();
  } catch (const std::exception& error) {
    failure = std::current_exception();
    const std::string message = error.what();
    said = kFailed + message.substr(0, message.find('\n'));
  }
  std::vector<std::string> all = all_gather_text(group, said, device);
  if (failure) {
    std::rethrow_exception(failure);
  }
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].front() == kFailed) {
      throw PeerError("rank " + std::to_string(rank) + " stopped: " + all[rank].substr(1));
    }
    all[rank].erase(0, 1);
  }
  return all;
}

} // namespace baton::parallel
