// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/watch.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <utility>
#include <vector>

#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <unistd.h>

#include "baton/base/log.h"

namespace baton::parallel {
namespace {

using std::chrono::milliseconds;

// One heartbeat a second, fewer where the store hears thousands of ranks.
milliseconds interval_of(int size) {
  return milliseconds(std::max(1000, 5 * size));
}

constexpr milliseconds kLook{200};
// A rank that has missed this many beats is gone.
constexpr int kMissedBeats = 3;
// Work that takes longer than this makes a rank ask after the others.
constexpr std::chrono::seconds kPatience{20};

} // namespace

Watch::Watch(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, milliseconds timeout)
    : store_(store->clone()),
      asked_(store->clone()),
      rank_(rank),
      size_(size),
      timeout_(timeout),
      interval_(interval_of(size)),
      beating_([this] { beat(); }),
      looking_([this] { look(); }) {}

Watch::~Watch() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_all();
  beating_.join();
  looking_.join();
}

std::string Watch::key(const char* kind, int rank) const {
  return std::string("watch/") + kind + "/" + std::to_string(rank);
}

void Watch::beat() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    try {
      store_->add(key("beats", rank_), 1);
    } catch (const std::exception& error) {
      log_debug(std::string("the store of the run does not answer: ") + error.what());
      return;
    }
    lock.lock();
    stopped_.wait_for(lock, interval_, [this] { return stop_; });
  }
}

std::string Watch::find_cause() {
  std::string cause;
  try {
    const auto beats = [this] {
      std::vector<std::int64_t> all;
      all.reserve(static_cast<std::size_t>(size_));
      for (int rank = 0; rank < size_; ++rank) {
        all.push_back(asked_->add(key("beats", rank), 0));
      }
      return all;
    };
    const std::vector<std::int64_t> before = beats();
    std::this_thread::sleep_for(kMissedBeats * interval_);
    const std::vector<std::int64_t> after = beats();
    for (int rank = 0; rank < size_; ++rank) {
      const auto place = static_cast<std::size_t>(rank);
      if (rank == rank_) {
        continue;
      }
      if (asked_->check({key("reason", rank)})) {
        const std::vector<std::uint8_t> reason = asked_->get(key("reason", rank));
        if (!reason.empty()) {
          cause += ", rank " + std::to_string(rank) +
                   " stopped: " + std::string(reason.begin(), reason.end());
        }
      } else if (before[place] == after[place]) {
        cause += ", rank " + std::to_string(rank) + " is gone";
      }
    }
  } catch (const std::exception& error) {
    log_debug(std::string("the store of the run does not answer: ") + error.what());
    cause += ", the store of the run is gone";
  }
  return cause;
}

void Watch::say_why_stopping(const std::string& reason) {
  if (said_.exchange(true)) {
    return;
  }
  try {
    asked_->set(key("reason", rank_), std::vector<std::uint8_t>(reason.begin(), reason.end()));
    std::this_thread::sleep_for((kMissedBeats + 2) * interval_);
  } catch (const std::exception& error) {
    log_debug(std::string("the store of the run does not answer: ") + error.what());
  }
}

void Watch::expect(
    const c10::intrusive_ptr<c10d::Work>& work,
    std::function<std::string(const std::string&)> describe) {
  const std::lock_guard lock(mutex_);
  expected_.push_back({work, std::move(describe), Clock::now()});
}

// Empty while nothing is wrong with the work, none once it is done.
std::optional<std::string> Watch::trouble_of(const Expected& expected) {
  try {
    if (expected.work->isCompleted()) {
      if (!expected.work->exception()) {
        return std::nullopt;
      }
      std::rethrow_exception(expected.work->exception());
    }
  } catch (const std::exception& error) {
    // The first line: some of these come with a trace.
    const std::string text = error.what();
    return text.substr(0, text.find('\n'));
  }
  if (Clock::now() - expected.since > timeout_) {
    return "nothing came in " +
           std::to_string(std::chrono::duration_cast<std::chrono::seconds>(timeout_).count()) +
           " s";
  }
  return "";
}

void Watch::look() {
  auto asked = Clock::now();
  std::unique_lock lock(mutex_);
  while (!stop_) {
    // In the order of their beginning; what a stream has not reached yet keeps those behind
    // waiting.
    std::optional<std::string> trouble;
    while (!expected_.empty() && !(trouble = trouble_of(expected_.front()))) {
      expected_.pop_front();
    }
    if (!expected_.empty()) {
      const std::string reason = *trouble;
      const bool overdue = Clock::now() - expected_.front().since > kPatience;
      const auto describe = expected_.front().describe;
      if (!reason.empty() || (overdue && Clock::now() - asked > kPatience)) {
        lock.unlock();
        asked = Clock::now();
        const std::string cause = find_cause();
        if (!reason.empty() || !cause.empty()) {
          log_error(describe(reason.empty() ? cause.substr(2) : reason + cause));
          say_why_stopping("");
          _exit(1);
        }
        lock.lock();
      }
    }
    stopped_.wait_for(lock, kLook, [this] { return stop_; });
  }
}

} // namespace baton::parallel
