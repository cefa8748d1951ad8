// What the fuzz drivers share: random draws, guarded memory, and the loop over layers.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "thread_pool.h"

namespace optc {

inline std::mt19937 rng;

inline int64_t draw(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(rng);
}

// Numbers with an untouchable page right behind them, or right before.
template <typename T>
class Guarded {
 public:
  Guarded(size_t count, T (*draw_one)()) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), bytes = count * sizeof(T);
    const size_t inner = (bytes + page - 1) / page * page;
    size_ = inner + 2 * page;
    base_ = static_cast<char*>(
        mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (inner > 0) mprotect(base_ + page, inner, PROT_READ | PROT_WRITE);
    data_ = reinterpret_cast<T*>(base_ + page + (draw(0, 1) ? inner - bytes : 0));
    for (size_t i = 0; i < count; ++i) data_[i] = draw_one();
  }
  Guarded(const Guarded&) = delete;
  ~Guarded() { munmap(base_, size_); }
  T* data() { return data_; }

 private:
  char* base_;
  size_t size_;
  T* data_;
};

struct TwoThreads final : ThreadPool {
  void parallel_for(size_t count, void (*body)(void*, size_t), void* data) override {
    std::thread other([&] {
      for (size_t i = 1; i < count; i += 2) body(data, i);
    });
    for (size_t i = 0; i < count; i += 2) body(data, i);
    other.join();
  }
};

template <typename T>
void damage_one(std::vector<T>& values, T value) {
  if (values.empty() || draw(0, 2) == 0) {
    draw(0, 1) || values.empty() ? values.push_back(value) : values.pop_back();
  } else {
    values[size_t(draw(0, int64_t(values.size()) - 1))] = value;
  }
}

inline int64_t odd_int() {
  const int64_t odd[] = {0, -1, 2, 7, 1 << 20, 1ll << 32, std::numeric_limits<int64_t>::max(),
                         std::numeric_limits<int64_t>::min()};
  return odd[draw(0, 7)];
}

inline size_t product(const std::vector<int64_t>& shape) {
  int64_t size = 1;
  for (const int64_t dim : shape) size *= dim;
  return size_t(size);
}

// Draws layers for argv[1] seconds with seed argv[2], half of them damaged, and runs each with all
// variants: run(layer, sound, variant) says whether it was accepted. Returns the exit status.
template <typename Layer, typename Variant, typename Run>
int fuzz(char** argv, Layer (*draw_layer)(), void (*damage)(Layer&),
         const std::vector<Variant>& variants, Run run) {
  const double seconds = std::atof(argv[1]);
  rng.seed(unsigned(std::atoi(argv[2])));
  const auto start = std::chrono::steady_clock::now();
  long ran = 0, refused = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() <
         seconds) {
    Layer layer = draw_layer();
    const bool sound = draw(0, 1);
    if (!sound) damage(layer);
    for (const Variant& variant : variants) run(layer, sound, variant) ? ++ran : ++refused;
  }
  std::printf("%ld ran, %ld refused, %zu variants\n", ran, refused, variants.size());
  return ran > 0 && refused > 0 ? 0 : 1;
}

}  // namespace optc
