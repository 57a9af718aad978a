// SPDX-License-Identifier: Apache-2.0
#include "baton/parallel/watch.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <functional>
#include <future>
#include <thread>
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
// What the store may take to answer.
constexpr std::chrono::seconds kAnswer{10};

std::string key_of(const char* kind, int rank) {
  return std::string("watch/") + kind + "/" + std::to_string(rank);
}

/// What `ask` returns, or none where that does not come in time: a client of the store waits for
/// ever where its host is stopped. `ask` then goes on by itself, so it owns what it uses.
template <class T>
std::optional<T> answer_within(milliseconds limit, std::function<T()> ask) {
  std::packaged_task<T()> task(std::move(ask));
  std::future<T> answer = task.get_future();
  std::thread(std::move(task)).detach();
  if (answer.wait_for(limit) != std::future_status::ready) {
    return std::nullopt;
  }
  return answer.get();
}

/// As Watch::find_cause, with a store that answers.
std::string read_cause(c10d::Store& store, int own_rank, int size, milliseconds interval) {
  const auto beats = [&] {
    std::vector<std::int64_t> all;
    all.reserve(static_cast<std::size_t>(size));
    for (int rank = 0; rank < size; ++rank) {
      all.push_back(store.add(key_of("beats", rank), 0));
    }
    return all;
  };
  std::string cause;
  const std::vector<std::int64_t> before = beats();
  std::this_thread::sleep_for(kMissedBeats * interval);
  const std::vector<std::int64_t> after = beats();
  for (int rank = 0; rank < size; ++rank) {
    const auto place = static_cast<std::size_t>(rank);
    if (rank == own_rank) {
      continue;
    }
    if (store.check({key_of("reason", rank)})) {
      const std::vector<std::uint8_t> reason = store.get(key_of("reason", rank));
      if (!reason.empty()) {
        cause += ", rank " + std::to_string(rank) +
                 " stopped: " + std::string(reason.begin(), reason.end());
      }
    } else if (before[place] == after[place]) {
      cause += ", rank " + std::to_string(rank) + " is gone";
    }
  }
  return cause;
}

} // namespace

Watch::Watch(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, milliseconds timeout)
    : asked_(store->clone()),
      rank_(rank),
      size_(size),
      timeout_(timeout),
      interval_(interval_of(size)),
      beats_(std::make_shared<Beats>()) {
  beats_->store = store->clone();
  beats_->key = key_of("beats", rank);
  beats_->interval = interval_;
  beating_ = std::thread([beats = beats_] { beat(*beats); });
  looking_ = std::thread([this] { look(); });
}

Watch::~Watch() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_all();
  looking_.join();
  bool ended = false;
  {
    std::unique_lock lock(beats_->mutex);
    beats_->stop = true;
    beats_->changed.notify_all();
    ended = beats_->changed.wait_for(
        lock, unanswered_ ? kLook : milliseconds(kAnswer), [this] { return beats_->ended; });
  }
  if (ended) {
    beating_.join();
  } else {
    beating_.detach();
  }
}

void Watch::beat(Beats& beats) {
  std::unique_lock lock(beats.mutex);
  while (!beats.stop) {
    lock.unlock();
    bool answered = true;
    try {
      beats.store->add(beats.key, 1);
    } catch (const std::exception& error) {
      log_debug(std::string("the store of the run is gone: ") + error.what());
      answered = false;
    }
    lock.lock();
    if (!answered) {
      break;
    }
    beats.changed.wait_for(lock, beats.interval, [&] { return beats.stop; });
  }
  beats.ended = true;
  beats.changed.notify_all();
}

std::string Watch::find_cause() {
  if (unanswered_) {
    return ", the store of the run does not answer";
  }
  try {
    const std::optional<std::string> cause = answer_within<std::string>(
        kMissedBeats * interval_ + kAnswer,
        [store = asked_, rank = rank_, size = size_, interval = interval_] {
          return read_cause(*store, rank, size, interval);
        });
    unanswered_ = !cause;
    return cause.value_or(", the store of the run does not answer");
  } catch (const std::exception& error) {
    log_debug(std::string("the store of the run is gone: ") + error.what());
    return ", the store of the run is gone";
  }
}

void Watch::say_why_stopping(const std::string& reason) {
  if (said_.exchange(true) || unanswered_) {
    return;
  }
  try {
    const std::optional<bool> said =
        answer_within<bool>(kAnswer, [store = asked_, key = key_of("reason", rank_), reason] {
          store->set(key, std::vector<std::uint8_t>(reason.begin(), reason.end()));
          return true;
        });
    unanswered_ = !said;
    if (said) {
      std::this_thread::sleep_for((kMissedBeats + 2) * interval_);
    }
  } catch (const std::exception& error) {
    log_debug(std::string("the store of the run is gone: ") + error.what());
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
