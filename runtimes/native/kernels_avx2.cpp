// AVX2 with FMA: 8 lanes, 16 registers, masked loads that never fault on lanes they leave out.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma")

namespace optc {
namespace avx2 {
namespace {

constexpr int kLanes = 8, kBasisRows = 6, kBasisVectors = 2;
typedef float Vector __attribute__((vector_size(32)));

// All ones in the lanes of the mask.
inline __m256i lanes_of(uint16_t mask) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask), bit), bit);
}

inline Vector masked(const float* p, uint16_t mask) {
  return _mm256_maskload_ps(p, lanes_of(mask));
}

inline Vector gathered(const float* p, const int32_t* lane_offset, uint16_t mask) {
  const __m256i index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane_offset));
  const __m256 lanes = _mm256_castsi256_ps(lanes_of(mask));
  return _mm256_mask_i32gather_ps(_mm256_setzero_ps(), p, index, lanes, sizeof(float));
}

inline Vector evens(Vector a, Vector b) {
  const __m256 mixed = _mm256_shuffle_ps(a, b, 0x88);  // a0 a2 b0 b2 a4 a6 b4 b6
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}

#include "kernels_impl.h"

}  // namespace
}  // namespace avx2

extern const Kernels avx2_kernels = {"avx2", avx2::kLanes, avx2::responses, avx2::rows};

}  // namespace optc

#pragma GCC pop_options
#endif
