// AVX-512: 16 lanes, 32 registers, masked loads that never fault on lanes they leave out.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

namespace optc {
namespace avx512 {
namespace {

constexpr int kLanes = 16, kBasisRows = 6, kBasisVectors = 4;
typedef float Vector __attribute__((vector_size(64)));

inline Vector masked(const float* p, uint16_t mask) { return _mm512_maskz_loadu_ps(mask, p); }

inline Vector gathered(const float* p, const int32_t* lane_offset, uint16_t mask) {
  const __m512i index = _mm512_loadu_si512(lane_offset);
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, p, sizeof(float));
}

inline Vector evens(Vector a, Vector b) {
  const __m512i index =
      _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_permutex2var_ps(a, index, b);
}

#include "kernels_impl.h"

}  // namespace
}  // namespace avx512

extern const Kernels avx512_kernels = {"avx512", avx512::kLanes, avx512::responses, avx512::rows};

}  // namespace optc

#pragma GCC pop_options
#endif
