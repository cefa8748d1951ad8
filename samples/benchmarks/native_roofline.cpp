// How near the native kernel's two stages come to the machine's peak, on one core.
//
//     g++ -std=c++17 -O3 -ffp-contract=fast -mno-mmx -Iruntimes/native -o /tmp/roofline
//         samples/benchmarks/native_roofline.cpp $(ls runtimes/native/*.cpp | grep -v library)
//
// Random weights. A stage's rate counts the multiply-adds that it must do (taps for responses,
// nonzero coefficients for the coefficient stage). The yardstick is a loop of fused multiply-adds
// that read one operand each from the first-level cache, and do nothing else. The coefficient stage
// reads an operand for each; responses read less than that, so they may pass the yardstick.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>

#include "decomposed_conv.h"

using namespace optc;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

#if defined(__x86_64__)
#define OPTC_WIDE __attribute__((target("avx512f,fma")))
constexpr int kYardstickLanes = 16;
#else
#define OPTC_WIDE
constexpr int kYardstickLanes = 4;
#endif
typedef float Wide __attribute__((vector_size(kYardstickLanes * sizeof(float))));

// Multiply-adds a second with one operand from the first-level cache (16 kB).
OPTC_WIDE double cached_rate() {
  constexpr int kSums = 8, kVectors = (16 << 10) / sizeof(Wide), kRepeats = 20000;
  alignas(64) static Wide memory[kVectors];
  volatile float one = 1;  // not to be known to the compiler
  const Wide factor = Wide{} + one;
  Wide sum[kSums] = {};
  const auto start = Clock::now();
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    asm volatile("" : : "r"(memory) : "memory");
    for (int i = 0; i < kVectors; i += kSums) {
#pragma GCC unroll 8
      for (int s = 0; s < kSums; ++s) sum[s] += factor * memory[i + s];
    }
  }
  const double seconds = seconds_since(start);
#pragma GCC unroll 8
  for (int s = 0; s < kSums; ++s) memory[s] = sum[s];
  return double(kRepeats) * kVectors * kYardstickLanes / seconds;
}

// The kernels in use, with a clock around each stage.
const Kernels* kernels = nullptr;
double responses_seconds = 0, rows_seconds = 0;

void timed_responses(const ResponseArgs& args) {
  const auto start = Clock::now();
  kernels->responses(args);
  responses_seconds += seconds_since(start);
}

void timed_rows(const RowArgs& args) {
  const auto start = Clock::now();
  kernels->rows(args);
  rows_seconds += seconds_since(start);
}

struct OneThread final : ThreadPool {
  void parallel_for(size_t count, void (*body)(void*, size_t), void* data) override {
    for (size_t i = 0; i < count; ++i) body(data, i);
  }
};

void measure(int64_t channels, int64_t image, double density, double cached) {
  constexpr int64_t M = 5;
  std::mt19937 rng(0);
  std::normal_distribution<float> normal;
  std::vector<float> basis(M * 9), values;
  for (float& b : basis) b = normal(rng);
  std::vector<uint8_t> bitmap(size_t(channels * channels * M + 7) / 8, 0xff);
  for (int64_t i = 0; i < channels * channels * M; ++i) {
    if (std::uniform_real_distribution<>()(rng) >= density) continue;
    values.push_back(normal(rng));
    bitmap[size_t(i / 8)] &= uint8_t(~(1 << i % 8));
  }
  Attributes attributes;
  attributes.strides = attributes.dilations = {1, 1};
  attributes.pads = {1, 1, 1, 1};
  attributes.coefficient_shape = {channels, channels, M};
  attributes.position_bits = 1;
  Constants constants;
  constants.basis = {basis.data(), {M, 3, 3}};
  constants.values = {values.data(), {int64_t(values.size()), 1}};
  constants.positions = {bitmap.data(), {int64_t(bitmap.size())}};
  const Kernels timed = {kernels->isa, kernels->lanes, timed_responses, timed_rows};
  const DecomposedConv conv(attributes, constants, timed);

  const int64_t pixels = image * image;
  std::vector<float> x(size_t(channels * pixels)), y(x.size());
  for (float& value : x) value = normal(rng);
  OneThread pool;
  constexpr int kWarmUp = 50, kRuns = 500;
  for (int i = 0; i < kWarmUp + kRuns; ++i) {
    if (i == kWarmUp) responses_seconds = rows_seconds = 0;
    conv.run(x.data(), {1, channels, image, image}, nullptr, y.data(), pool);
  }
  const double responses = double(channels * M * 9 * pixels) * kRuns / responses_seconds;
  const double rows = double(values.size()) * double(pixels) * kRuns / rows_seconds;
  std::printf("%4ld %2ldx%-2ld  %4.0f %%   %6.1f us %6.1f (%2.0f %%)   %6.1f us %6.1f (%2.0f %%)\n",
              long(channels), long(image), long(image), 100 * density,
              1e6 * responses_seconds / kRuns, responses / 1e9, 100 * responses / cached,
              1e6 * rows_seconds / kRuns, rows / 1e9, 100 * rows / cached);
}

}  // namespace

int main() {
  kernels = select_kernels();
  if (kernels == nullptr) return 1;
  double cached = 0;
  for (int i = 0; i < 10; ++i) cached = std::max(cached, cached_rate());
  std::printf("kernels %s; cached multiply-adds: %.1f G/s\n", kernels->isa,
              cached / 1e9);
  std::printf("layer       density  responses, G/s (of cached)   coefficients, G/s (of cached)\n");
  for (const double density : {0.05, 0.1, 0.25}) {
    measure(64, 32, density, cached);
    measure(128, 16, density, cached);
    measure(256, 8, density, cached);
    measure(512, 4, density, cached);
  }
}
