// Any processor: 4 lanes (SSE2 on x86-64, NEON on arm64), and the choice between all variants.
#include "kernels.h"

#include <cstdlib>
#include <cstring>

namespace optc {
namespace portable {
namespace {

constexpr int kLanes = 4, kBasisRows = 6, kBasisVectors = 2;
typedef float Vector __attribute__((vector_size(16)));

inline Vector masked(const float* p, uint16_t mask) {
  Vector v = {};
  if (mask == (1 << kLanes) - 1) {
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  for (int l = 0; l < kLanes; ++l) {
    if (mask >> l & 1) v[l] = p[l];
  }
  return v;
}

inline Vector gathered(const float* p, const int32_t* lane_offset, uint16_t mask) {
  Vector v = {};
  for (int l = 0; l < kLanes; ++l) {
    if (mask >> l & 1) v[l] = p[lane_offset[l]];
  }
  return v;
}

inline Vector evens(Vector a, Vector b) { return Vector{a[0], a[2], b[0], b[2]}; }

#include "kernels_impl.h"

}  // namespace
}  // namespace portable

extern const Kernels portable_kernels = {"portable", portable::kLanes, portable::responses,
                                         portable::rows};

const Kernels* select_kernels() {
  const Kernels* usable[3] = {&portable_kernels};
  int count = 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    usable[count++] = &avx2_kernels;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      usable[count++] = &avx512_kernels;
    }
  }
#endif
  const char* wanted = std::getenv("OPTC_ISA");
  if (wanted == nullptr || *wanted == '\0') return usable[count - 1];
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(usable[i]->isa, wanted) == 0) return usable[i];
  }
  return nullptr;
}

}  // namespace optc
