// AVX2: 32 bytes a vector. With VNNI an instruction sums the products of bytes. Without it they are
// summed exactly as well: x is widened to 16 bits first, because the byte instruction saturates, and
// T goes in as its size with its sign on the weight.
#include "hybrid_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#pragma GCC target("avx2")
#define OPTC_INLINE __attribute__((always_inline)) inline
#define OPTC_UNROLL _Pragma("GCC unroll 16")

namespace optc {
namespace {

// Sums have the type of vpdpbusd itself, or gcc copies them before and after each.
typedef int32_t Eight __attribute__((vector_size(32)));

struct Bytes {
  __m256i of[2];
};

}  // namespace

namespace hybrid_avx2 {
namespace {

constexpr int32_t kOffset = 0;

struct Pixels {
  __m256i even[2], odd[2];  // 16-bit words
};
struct Taps {
  __m256i even, odd;
};

inline Pixels make_pixels(const Bytes& bytes) {
  Pixels pixels;
  OPTC_UNROLL for (int i = 0; i < 2; ++i) {
    pixels.even[i] = _mm256_and_si256(bytes.of[i], _mm256_set1_epi16(0xff));
    pixels.odd[i] = _mm256_srli_epi16(bytes.of[i], 8);
  }
  return pixels;
}

inline Taps make_taps(uint32_t word) {
  const __m256i x = _mm256_set1_epi32(int(word));
  return {_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8)};
}

// Eight pixels.
inline Eight add_pixels(Eight sums, const Pixels& pixels, int half, const Taps& taps) {
  const __m256i even = _mm256_madd_epi16(pixels.even[half], taps.even);
  const __m256i odd = _mm256_madd_epi16(pixels.odd[half], taps.odd);
  return Eight(_mm256_add_epi32(__m256i(sums), _mm256_add_epi32(even, odd)));
}

// |T| <= 128 and |Ce| <= 127, so two products fit 16 bits.
inline Eight add_responses(Eight sums, __m256i t, __m256i weight) {
  const __m256i twos = _mm256_maddubs_epi16(_mm256_abs_epi8(t), _mm256_sign_epi8(weight, t));
  const __m256i fours = _mm256_madd_epi16(twos, _mm256_set1_epi16(1));
  return Eight(_mm256_add_epi32(__m256i(sums), fours));
}

#include "hybrid_avx2_impl.h"
#include "hybrid_windows_impl.h"
#include "hybrid_responses_impl.h"
#include "hybrid_rows_impl.h"

}  // namespace
}  // namespace hybrid_avx2

extern const HybridKernels hybrid_avx2_kernels = {
    "avx2", hybrid_avx2::kOffset, hybrid_avx2::pair_responses, hybrid_avx2::element_responses,
    hybrid_avx2::pair_rows, hybrid_avx2::dense_rows, hybrid_avx2::element_rows};

#if defined(OPTC_AVXVNNI)
#pragma GCC target("avxvnni")

namespace hybrid_avxvnni {
namespace {

constexpr int32_t kOffset = 128;  // unsigned T, as vpdpbusd wants it

typedef Bytes Pixels;
typedef __m256i Taps;

inline const Pixels& make_pixels(const Bytes& bytes) { return bytes; }
inline Taps make_taps(uint32_t word) { return _mm256_set1_epi32(int(word)); }

inline Eight add_pixels(Eight sums, const Pixels& pixels, int half, Taps taps) {
  return Eight(_mm256_dpbusd_avx_epi32(__m256i(sums), pixels.of[half], taps));
}

inline Eight add_responses(Eight sums, __m256i t, __m256i weight) {
  return Eight(_mm256_dpbusd_avx_epi32(__m256i(sums), t, weight));
}

#include "hybrid_avx2_impl.h"
#include "hybrid_windows_impl.h"
#include "hybrid_responses_impl.h"
#include "hybrid_rows_impl.h"

}  // namespace
}  // namespace hybrid_avxvnni

extern const HybridKernels hybrid_avxvnni_kernels = {
    "avxvnni", hybrid_avxvnni::kOffset, hybrid_avxvnni::pair_responses,
    hybrid_avxvnni::element_responses, hybrid_avxvnni::pair_rows, hybrid_avxvnni::dense_rows,
    hybrid_avxvnni::element_rows};
#endif

}  // namespace optc

#pragma GCC pop_options
#endif
