// Operations of the kernels for AVX-512 with VNNI. Included twice by hybrid_avx512.cpp, with
// kDirect true where the processor has VBMI, which permutes 64 bytes at once.
#define OPTC_INLINE __attribute__((always_inline)) inline
#define OPTC_UNROLL _Pragma("GCC unroll 16")

constexpr int32_t kOffset = 128;  // unsigned T, as vpdpbusd wants it
constexpr int kSums = 8;

// Sums have the type of vpdpbusd itself, or gcc copies them before and after each.
typedef int32_t Sums __attribute__((vector_size(64)));
typedef __m512i Bytes, Pixels, Zero, Taps, Weight, Shift;

inline Sums make_sums(int32_t value) { return Sums(_mm512_set1_epi32(value)); }
inline Sums sum(Sums a, Sums b) {
  return Sums(_mm512_add_epi32(__m512i(a), __m512i(b)));
}
inline Bytes load_bytes(const uint8_t* p) { return _mm512_load_si512(p); }
inline void store_bytes(uint8_t* p, Bytes bytes) { _mm512_store_si512(p, bytes); }
inline Pixels make_pixels(Bytes bytes) { return bytes; }
inline Bytes flip(Bytes bytes) { return _mm512_xor_si512(bytes, _mm512_set1_epi8(char(0x80))); }
inline Taps make_taps(uint32_t word) { return _mm512_set1_epi32(int(word)); }
inline Shift make_shift(int32_t count) { return _mm512_set1_epi32(count); }
inline Weight make_weight(uint32_t word) { return _mm512_set1_epi32(int(word)); }

inline Sums respond(Sums sums, Pixels pixels, Taps taps) {
  return Sums(_mm512_dpbusd_epi32(__m512i(sums), pixels, taps));
}

inline Sums dot(Sums sums, const uint8_t* t, Weight weight) {
  return Sums(_mm512_dpbusd_epi32(__m512i(sums), _mm512_load_si512(t), weight));
}

// Bytes of one 16-byte piece of the window: shuffles give zero where the index has its high bit.
inline __m512i piece(__m512i index, const uint8_t* p, int first) {
  const __m512i bytes =
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + first)));
  const __m512i in_piece = _mm512_sub_epi8(index, _mm512_set1_epi8(char(first)));
  return _mm512_shuffle_epi8(bytes, _mm512_adds_epu8(in_piece, _mm512_set1_epi8(0x70)));
}

inline Zero make_zero(uint8_t zero) { return _mm512_set1_epi8(char(zero)); }

inline Bytes permute(const uint8_t* p, const uint8_t* table, Zero zeros) {
  const __m512i index = _mm512_loadu_si512(table);
  if constexpr (kDirect) {
    return _mm512_permutex2var_epi8(_mm512_loadu_si512(p), index, zeros);
  } else {
    const __m512i low = _mm512_or_si512(piece(index, p, 0), piece(index, p, 16));
    const __m512i high = _mm512_or_si512(piece(index, p, 32), piece(index, p, 48));
    const __mmask64 padding = _mm512_test_epi8_mask(index, _mm512_set1_epi8(kPadding));
    return _mm512_mask_mov_epi8(_mm512_or_si512(low, high), padding, zeros);
  }
}

// Word i of every 128-bit lane goes to lane i, and back.
inline __m512i gather_lanes(__m512i x) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, x);
}

// In every 128-bit lane [response][pixel] becomes [pixel][response].
inline __m512i transpose_bytes(__m512i x) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(order));
}

inline __m512i shifted(Sums r, Shift shift) { return _mm512_srav_epi32(__m512i(r), shift); }

// In lane i, pixels 4 i .. 4 i + 3 of each response.
inline Bytes pack(const Sums r[kQuad], const Shift shift[kQuad]) {
  const __m512i low = _mm512_packs_epi32(shifted(r[0], shift[0]), shifted(r[1], shift[1]));
  const __m512i high = _mm512_packs_epi32(shifted(r[2], shift[2]), shifted(r[3], shift[3]));
  return _mm512_packus_epi16(low, high);
}

inline void store_pair(uint8_t* t, Bytes packed) {
  _mm512_store_si512(t, transpose_bytes(packed));
}

// Of four vectors, lane i of a row holds pixels 4 i .. 4 i + 3 of vector 0, then of vector 1, ...
template <int V>
inline void make_rows(uint8_t* t) {
  Bytes packed[V];
  OPTC_UNROLL for (int v = 0; v < V; ++v) packed[v] = _mm512_load_si512(t + v * kQuadBytes);
  if constexpr (V == 4) {
    const __m512i low_a = _mm512_unpacklo_epi32(packed[0], packed[1]);
    const __m512i low_b = _mm512_unpacklo_epi32(packed[2], packed[3]);
    const __m512i high_a = _mm512_unpackhi_epi32(packed[0], packed[1]);
    const __m512i high_b = _mm512_unpackhi_epi32(packed[2], packed[3]);
    _mm512_store_si512(t, _mm512_unpacklo_epi64(low_a, low_b));
    _mm512_store_si512(t + 64, _mm512_unpackhi_epi64(low_a, low_b));
    _mm512_store_si512(t + 128, _mm512_unpacklo_epi64(high_a, high_b));
    _mm512_store_si512(t + 192, _mm512_unpackhi_epi64(high_a, high_b));
  } else {
    OPTC_UNROLL for (int v = 0; v < V; ++v) {
      alignas(64) uint8_t rows[kQuadBytes];
      _mm512_store_si512(rows, gather_lanes(packed[v]));
      OPTC_UNROLL for (int m = 0; m < kQuad; ++m) {
        const __m128i row = _mm_load_si128(reinterpret_cast<const __m128i*>(rows + m * kPixels));
        _mm_store_si128(reinterpret_cast<__m128i*>(t + (m * V + v) * kPixels), row);
      }
    }
  }
}

inline Bytes gather_rows(const uint8_t* const t[kQuad], ptrdiff_t at) {
  const auto row = [&](int i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(t[i] + at));
  };
  const __m512i rows = _mm512_inserti64x4(
      _mm512_castsi256_si512(_mm256_set_m128i(row(1), row(0))),
      _mm256_set_m128i(row(3), row(2)), 1);
  return transpose_bytes(gather_lanes(rows));
}

template <int V>
inline void dot_rows(Sums sums[V], const uint8_t* const t[kQuad], Weight weight) {
  if constexpr (V == 4) {
    const __m512i r0 = _mm512_load_si512(t[0]), r1 = _mm512_load_si512(t[1]);
    const __m512i r2 = _mm512_load_si512(t[2]), r3 = _mm512_load_si512(t[3]);
    const __m512i low_a = _mm512_unpacklo_epi8(r0, r1), high_a = _mm512_unpackhi_epi8(r0, r1);
    const __m512i low_b = _mm512_unpacklo_epi8(r2, r3), high_b = _mm512_unpackhi_epi8(r2, r3);
    sums[0] = respond(sums[0], _mm512_unpacklo_epi16(low_a, low_b), weight);
    sums[1] = respond(sums[1], _mm512_unpackhi_epi16(low_a, low_b), weight);
    sums[2] = respond(sums[2], _mm512_unpacklo_epi16(high_a, high_b), weight);
    sums[3] = respond(sums[3], _mm512_unpackhi_epi16(high_a, high_b), weight);
  } else {
    OPTC_UNROLL for (int v = 0; v < V; ++v) {
      sums[v] = respond(sums[v], gather_rows(t, v * kPixels), weight);
    }
  }
}

// Bytes of one vector of Y or of the residual.
inline __mmask16 pixels_of(const HybridTile& tile, int v) {
  return __mmask16((1u << tile.pixels[v]) - 1);
}

// rint(acc * a + b [+ residual * rho])
OPTC_INLINE __m512i rounded(const HybridRowArgs& a, size_t k, Sums sums,
                            const __m128i* residual) {
  const Requantise& q = *a.requantise;
  __m512 u = _mm512_mul_ps(_mm512_cvtepi32_ps(__m512i(sums)), _mm512_set1_ps(q.a[k]));
  u = _mm512_add_ps(u, _mm512_set1_ps(q.b[k]));
  if (residual != nullptr) {
    const __m512i r = _mm512_sub_epi32(_mm512_cvtepu8_epi32(*residual),
                                       _mm512_set1_epi32(q.residual_zero));
    u = _mm512_add_ps(u, _mm512_mul_ps(_mm512_cvtepi32_ps(r), _mm512_set1_ps(q.rho)));
  }
  u = _mm512_min_ps(u, _mm512_set1_ps(65536.0f));  // more would turn negative as an integer
  return _mm512_cvt_roundps_epi32(u, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Four rounded vectors plus y_zero, clamped: bytes in natural order.
OPTC_INLINE __m512i to_bytes(const Requantise& q, const __m512i r[4]) {
  const __m512i zero = _mm512_set1_epi16(short(q.y_zero));
  const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(r[0], r[1]), zero);
  const __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(r[2], r[3]), zero);
  const __m512i bytes = gather_lanes(_mm512_packus_epi16(low, high));
  return _mm512_min_epu8(_mm512_max_epu8(bytes, _mm512_set1_epi8(char(q.lower))),
                         _mm512_set1_epi8(char(q.upper)));
}

template <int V>
OPTC_INLINE void finish(const HybridRowArgs& a, size_t k, const Sums sums[V]) {
  const HybridTile& tile = *a.tile;
  const ptrdiff_t row = ptrdiff_t(k) * a.plane;
  __m512i r[4] = {};
  OPTC_UNROLL for (int v = 0; v < V; ++v) {
    __m128i residual;
    if (a.residual != nullptr) {
      const uint8_t* p = a.residual + tile.output[v] + row;
      residual = tile.contiguous ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))
                                 : _mm_maskz_loadu_epi8(pixels_of(tile, v), p);
    }
    r[v] = rounded(a, k, sums[v], a.residual != nullptr ? &residual : nullptr);
  }
  alignas(64) uint8_t bytes[4 * kPixels];
  const __m512i y = to_bytes(*a.requantise, r);
  if (V == 4 && tile.contiguous) return _mm512_storeu_si512(a.y + tile.output[0] + row, y);
  _mm512_store_si512(bytes, y);
  OPTC_UNROLL for (int v = 0; v < V; ++v) {
    const __m128i part = _mm_load_si128(reinterpret_cast<const __m128i*>(bytes + v * kPixels));
    uint8_t* p = a.y + tile.output[v] + row;
    if (tile.pixels[v] == kPixels) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), part);
    } else {
      _mm_mask_storeu_epi8(p, pixels_of(tile, v), part);
    }
  }
}
