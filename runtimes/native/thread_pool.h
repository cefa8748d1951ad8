// What runs the pieces of a call, and memory that a thread keeps between calls.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace optc {

// Runs body(data, i) for i in [0, count), possibly on several threads.
struct ThreadPool {
  virtual void parallel_for(size_t count, void (*body)(void*, size_t), void* data) = 0;

 protected:
  ~ThreadPool() = default;
};

// Memory that a thread keeps for its next call, aligned for the widest vector.
class Scratch {
 public:
  // Null when there is no memory.
  void* reserve(size_t bytes) {
    if (bytes > capacity_ || memory_ == nullptr) {
      const size_t whole = (bytes / kAlignment + 1) * kAlignment;
      memory_.reset(std::aligned_alloc(kAlignment, whole));
      capacity_ = memory_ == nullptr ? 0 : bytes;
    }
    return memory_.get();
  }

 private:
  static constexpr size_t kAlignment = 64;

  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t capacity_ = 0;
};

}  // namespace optc
