// Whether a layer should be shared with other threads, by what it has seen.
#pragma once

#include <atomic>
#include <cstdint>

namespace optc {

// Where the second core is far, to hand a layer over takes as long as half of a small one: such a
// layer is faster alone. Every few calls are a trial, because the cores of a virtual machine move.
// Any number of threads may use one; what they overwrite is a measurement.
class Sharing {
 public:
  // What a call does.
  struct Choice {
    bool share;
    bool measure;  // the time until another thread begins, or that of the whole call alone
  };

  // For a call of so many tiles.
  Choice next(int64_t tiles) {
    const uint32_t call = calls_.fetch_add(1, std::memory_order_relaxed);
    const bool trial = call % kTrial == 0;
    if (late_.load(std::memory_order_relaxed) < kLateInARow || trial) return {true, trial};
    const int64_t of_tile = alone_of_tile_.load(std::memory_order_relaxed);
    return {of_tile * tiles > kLargest, of_tile == 0};
  }

  // `any`: another thread has begun at all.
  void began_after(int64_t nanoseconds, bool any) {
    const bool is_late = !any || nanoseconds > kLate;
    const int late = is_late ? late_.load(std::memory_order_relaxed) + 1 : 0;
    late_.store(late < kLateInARow ? late : kLateInARow, std::memory_order_relaxed);
  }

  void took_alone(int64_t nanoseconds, int64_t tiles) {
    alone_of_tile_.store(nanoseconds / tiles + 1, std::memory_order_relaxed);
  }

 private:
  static constexpr uint32_t kTrial = 16;
  static constexpr int kLateInARow = 4;
  static constexpr int64_t kLate = 700;       // ns: 200 on near cores, 1,500 on far ones
  static constexpr int64_t kLargest = 30000;  // ns: layers that are worth it on far cores too

  std::atomic<uint32_t> calls_{0};
  std::atomic<int> late_{0};
  std::atomic<int64_t> alone_of_tile_{0};
};

}  // namespace optc
