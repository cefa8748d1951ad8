// Any processor: plain loops, which compilers turn into what vectors there are; and the choice
// between all variants.
#include "hybrid_kernels.h"

#include <cstdlib>
#include <cstring>

#define OPTC_INLINE __attribute__((always_inline)) inline
#define OPTC_UNROLL  // loops over arrays need none, and would take long to compile

#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")

namespace optc {
namespace hybrid_portable {
namespace {

constexpr int32_t kOffset = 0;
constexpr int kSums = 4;
constexpr bool kDirect = false;

struct Sums {
  int32_t of[kPixels];
};
struct Taps {
  int16_t of[kQuad];
};
struct Bytes {
  uint8_t of[kWindow];
};
typedef Bytes Pixels;
typedef Taps Weight;
typedef int32_t Shift;
typedef uint8_t Zero;

inline Sums make_sums(int32_t value) {
  Sums sums;
  for (int i = 0; i < kPixels; ++i) sums.of[i] = value;
  return sums;
}

inline Sums sum(Sums a, const Sums& b) {
  for (int i = 0; i < kPixels; ++i) a.of[i] += b.of[i];
  return a;
}

inline Bytes load_bytes(const uint8_t* p) {
  Bytes bytes;
  for (int i = 0; i < kWindow; ++i) bytes.of[i] = p[i];
  return bytes;
}

inline void store_bytes(uint8_t* p, const Bytes& bytes) {
  for (int i = 0; i < kWindow; ++i) p[i] = bytes.of[i];
}

inline const Pixels& make_pixels(const Bytes& bytes) { return bytes; }
inline Shift make_shift(int32_t count) { return count; }

inline Taps make_taps(uint32_t word) {
  Taps taps;
  for (int i = 0; i < kQuad; ++i) taps.of[i] = int8_t(word >> 8 * i);
  return taps;
}

inline Weight make_weight(uint32_t word) { return make_taps(word); }

template <typename Byte>
inline Sums add_products(Sums sums, const Byte* x, const Taps& taps) {
  for (int i = 0; i < kPixels; ++i) {
    for (int j = 0; j < kQuad; ++j) sums.of[i] += x[i * kQuad + j] * taps.of[j];
  }
  return sums;
}

inline Sums respond(const Sums& sums, const Pixels& pixels, const Taps& taps) {
  return add_products(sums, pixels.of, taps);
}

inline Sums dot(const Sums& sums, const uint8_t* t, const Weight& weight) {
  return add_products(sums, reinterpret_cast<const int8_t*>(t), weight);
}

inline Zero make_zero(uint8_t zero) { return zero; }

inline Bytes permute(const uint8_t* p, const uint8_t* table, Zero zero) {
  Bytes bytes;
  for (int i = 0; i < kWindow; ++i) bytes.of[i] = table[i] == kPadding ? zero : p[table[i]];
  return bytes;
}

inline uint8_t shifted(int32_t r, Shift shift) {
  const int32_t t = r >> shift;
  return uint8_t(t < -128 ? -128 : t > 127 ? 127 : t);
}

inline Bytes pack(const Sums r[kQuad], const Shift shift[kQuad]) {
  Bytes packed;
  for (int i = 0; i < kPixels; ++i) {
    for (int m = 0; m < kQuad; ++m) packed.of[i * kQuad + m] = shifted(r[m].of[i], shift[m]);
  }
  return packed;
}

inline void store_pair(uint8_t* t, const Bytes& packed) { store_bytes(t, packed); }

template <int V>
inline void make_rows(uint8_t* t) {
  Bytes packed[V];
  for (int v = 0; v < V; ++v) packed[v] = load_bytes(t + v * kQuadBytes);
  for (int v = 0; v < V; ++v) {
    for (int i = 0; i < kQuadBytes; ++i) {
      t[(i % kQuad * V + v) * kPixels + i / kQuad] = packed[v].of[i];
    }
  }
}

inline Bytes gather_rows(const uint8_t* const t[kQuad], ptrdiff_t at) {
  Bytes bytes;
  for (int i = 0; i < kQuadBytes; ++i) bytes.of[i] = t[i % kQuad][at + i / kQuad];
  return bytes;
}

inline Bytes flip(Bytes bytes) {
  for (int i = 0; i < kQuadBytes; ++i) bytes.of[i] ^= 0x80;
  return bytes;
}

template <int V>
inline void dot_rows(Sums* sums, const uint8_t* const t[kQuad], const Weight& weight) {
  for (int v = 0; v < V; ++v) {
    for (int j = 0; j < kQuad; ++j) {
      for (int i = 0; i < kPixels; ++i) {
        sums[v].of[i] += int8_t(t[j][v * kPixels + i]) * weight.of[j];
      }
    }
  }
}

// rint(u) + y_zero, clamped. Adding 1.5 * 2^23 leaves no bits for a fraction: it rounds half to
// even, as the processor does by default.
inline uint8_t to_byte(const Requantise& q, float u) {
  constexpr float kRound = 12582912.0f;
  u = u < -65536.0f ? -65536.0f : u > 65536.0f ? 65536.0f : u;
  const int32_t y = int32_t((u + kRound) - kRound) + q.y_zero;
  return uint8_t(y < q.lower ? q.lower : y > q.upper ? q.upper : y);
}

template <int V>
OPTC_INLINE void finish(const HybridRowArgs& a, size_t k, const Sums* sums) {
  const Requantise& q = *a.requantise;
  for (int v = 0; v < V; ++v) {
    const ptrdiff_t at = a.tile->output[v] + ptrdiff_t(k) * a.plane;
    for (int i = 0; i < a.tile->pixels[v]; ++i) {
      float u = float(sums[v].of[i]) * q.a[k];
      u = u + q.b[k];
      if (a.residual != nullptr) {
        const float added = float(int32_t(a.residual[at + i]) - q.residual_zero) * q.rho;
        u = u + added;
      }
      a.y[at + i] = to_byte(q, u);
    }
  }
}

#include "hybrid_windows_impl.h"
#include "hybrid_responses_impl.h"
#include "hybrid_rows_impl.h"

}  // namespace
}  // namespace hybrid_portable

extern const HybridKernels hybrid_portable_kernels = {
    "portable", hybrid_portable::kOffset, hybrid_portable::pair_responses,
    hybrid_portable::element_responses, hybrid_portable::pair_rows, hybrid_portable::dense_rows,
    hybrid_portable::element_rows};

const HybridKernels* select_hybrid_kernels() {
  const HybridKernels* usable[5] = {&hybrid_portable_kernels};
  int count = 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) {
    usable[count++] = &hybrid_avx2_kernels;
#if defined(OPTC_AVXVNNI)
    if (__builtin_cpu_supports("avxvnni")) usable[count++] = &hybrid_avxvnni_kernels;
#endif
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
      usable[count++] = &hybrid_avx512vnni_kernels;
      if (__builtin_cpu_supports("avx512vbmi")) usable[count++] = &hybrid_avx512_kernels;
    }
  }
#endif
  const char* wanted = std::getenv("OPTC_ISA");
  if (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, "avx512") == 0) {
    return usable[count - 1];
  }
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(usable[i]->isa, wanted) == 0) return usable[i];
  }
  return nullptr;
}

}  // namespace optc

#pragma GCC pop_options
