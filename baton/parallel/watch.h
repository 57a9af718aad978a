// SPDX-License-Identifier: Apache-2.0
// Finds out which ranks are gone, and ends a rank that waits in vain.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

namespace baton::parallel {

/// Each rank counts its own heartbeats in the store of the run, and reads those of others once
/// something has failed.
class Watch {
 public:
  Watch(
      const c10::intrusive_ptr<c10d::Store>& store,
      int rank,
      int size,
      std::chrono::milliseconds timeout);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  int rank() const { return rank_; }
  /// Whether this rank has said why it stops.
  bool stopping() const { return said_; }

  /// Why an operation may have failed: ", rank 3 is gone", ", rank 3 stopped: (its reason)" or, if
  /// all are well, nothing. Takes a few heartbeats, and a little longer where the store is gone or
  /// its host does not answer.
  std::string find_cause();

  /// Leaves the reason for others' messages, and stays long enough for them to read it.
  void say_why_stopping(const std::string& reason);

  /// Ends the process with `describe(reason)` when the work of a device is not done in time or
  /// another rank is gone; the host does not wait for such work, and so cannot throw.
  void expect(
      const c10::intrusive_ptr<c10d::Work>& work,
      std::function<std::string(const std::string&)> describe);

 private:
  using Clock = std::chrono::steady_clock;
  struct Expected {
    c10::intrusive_ptr<c10d::Work> work;
    std::function<std::string(const std::string&)> describe;
    Clock::time_point since;
  };

  /// What the beating thread uses; it outlives the watch where the store does not answer.
  struct Beats {
    c10::intrusive_ptr<c10d::Store> store;
    std::string key;
    std::chrono::milliseconds interval{0};
    std::mutex mutex;
    std::condition_variable changed;
    bool stop = false;
    bool ended = false;
  };

  static void beat(Beats& beats);
  void look();
  std::optional<std::string> trouble_of(const Expected& expected);

  c10::intrusive_ptr<c10d::Store>
      asked_; ///< not that of the beats, which a slow answer must not stop
  const int rank_;
  const int size_;
  const std::chrono::milliseconds timeout_;
  const std::chrono::milliseconds interval_;
  const std::shared_ptr<Beats> beats_;
  std::atomic<bool> said_{false};
  std::atomic<bool> unanswered_{false}; ///< the store has let this rank wait in vain
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;
  std::list<Expected> expected_;
  std::thread beating_;
  std::thread looking_;
};

} // namespace baton::parallel
