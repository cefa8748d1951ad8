// Operations of the kernels for vectors of 32 bytes, two of them for the pixels of a vector. Included
// twice by hybrid_avx2.cpp, behind what says how products are summed.

constexpr int kSums = 4;
constexpr bool kDirect = false;

struct Sums {
  Eight of[2];  // pixels 0 .. 7, 8 .. 15
};
typedef __m256i Weight, Zero;
typedef __m128i Shift;

inline __m256i load(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline void store(uint8_t* p, __m256i x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
}

inline Sums make_sums(int32_t value) {
  return {{Eight(_mm256_set1_epi32(value)), Eight(_mm256_set1_epi32(value))}};
}

inline Sums sum(const Sums& a, const Sums& b) {
  return {{Eight(_mm256_add_epi32(__m256i(a.of[0]), __m256i(b.of[0]))),
           Eight(_mm256_add_epi32(__m256i(a.of[1]), __m256i(b.of[1])))}};
}

inline Bytes load_bytes(const uint8_t* p) { return {{load(p), load(p + 32)}}; }

inline void store_bytes(uint8_t* p, const Bytes& bytes) {
  store(p, bytes.of[0]), store(p + 32, bytes.of[1]);
}

inline Sums respond(Sums sums, const Pixels& pixels, const Taps& taps) {
  OPTC_UNROLL for (int i = 0; i < 2; ++i) {
    sums.of[i] = add_pixels(sums.of[i], pixels, i, taps);
  }
  return sums;
}

inline Sums dot(const Sums& sums, const uint8_t* t, Weight weight) {
  return {{add_responses(sums.of[0], load(t), weight),
           add_responses(sums.of[1], load(t + 32), weight)}};
}

inline Shift make_shift(int32_t count) { return _mm_cvtsi32_si128(count); }
inline Weight make_weight(uint32_t word) { return _mm256_set1_epi32(int(word)); }

// Bytes of one 16-byte piece of the window: shuffles give zero where the index has its high bit.
inline __m256i piece(__m256i index, const uint8_t* p, int first) {
  const __m256i bytes = _mm256_broadcastsi128_si256(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + first)));
  const __m256i in_piece = _mm256_sub_epi8(index, _mm256_set1_epi8(char(first)));
  return _mm256_shuffle_epi8(bytes, _mm256_adds_epu8(in_piece, _mm256_set1_epi8(0x70)));
}

inline Zero make_zero(uint8_t zero) { return _mm256_set1_epi8(char(zero)); }

inline Bytes permute(const uint8_t* p, const uint8_t* table, Zero zero) {
  Bytes bytes;
  OPTC_UNROLL for (int i = 0; i < 2; ++i) {
    const __m256i index = load(table + 32 * i);
    const __m256i padding = _mm256_cmpeq_epi8(index, _mm256_set1_epi8(kPadding));
    const __m256i low = _mm256_or_si256(piece(index, p, 0), piece(index, p, 16));
    const __m256i high = _mm256_or_si256(piece(index, p, 32), piece(index, p, 48));
    const __m256i zeros = _mm256_and_si256(padding, zero);
    bytes.of[i] = _mm256_or_si256(_mm256_or_si256(low, high), zeros);
  }
  return bytes;
}

// Of each half: in lane i, pixels 4 i .. 4 i + 3 of each response.
inline Bytes pack(const Sums r[kQuad], const Shift shift[kQuad]) {
  Bytes packed;
  OPTC_UNROLL for (int i = 0; i < 2; ++i) {
    __m256i x[kQuad];
    OPTC_UNROLL for (int m = 0; m < kQuad; ++m) x[m] = _mm256_sra_epi32(__m256i(r[m].of[i]), shift[m]);
    const __m256i low = _mm256_packs_epi32(x[0], x[1]), high = _mm256_packs_epi32(x[2], x[3]);
    packed.of[i] = kOffset == 128 ? _mm256_packus_epi16(low, high) : _mm256_packs_epi16(low, high);
  }
  return packed;
}

inline void store_pair(uint8_t* t, const Bytes& packed) {
  const __m256i order = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  OPTC_UNROLL for (int i = 0; i < 2; ++i) {
    store(t + 32 * i, _mm256_shuffle_epi8(packed.of[i], order));
  }
}

template <int V>
inline void make_rows(uint8_t* t) {
  Bytes packed[V];
  OPTC_UNROLL for (int v = 0; v < V; ++v) packed[v] = load_bytes(t + v * kQuadBytes);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  OPTC_UNROLL for (int v = 0; v < V; ++v) {
    // Eight pixels of one response after the other.
    const __m256i first = _mm256_permutevar8x32_epi32(packed[v].of[0], order);
    const __m256i second = _mm256_permutevar8x32_epi32(packed[v].of[1], order);
    const __m256i even = _mm256_unpacklo_epi64(first, second);  // rows 0 and 2
    const __m256i odd = _mm256_unpackhi_epi64(first, second);
    const __m128i rows[kQuad] = {_mm256_castsi256_si128(even), _mm256_castsi256_si128(odd),
                                 _mm256_extracti128_si256(even, 1),
                                 _mm256_extracti128_si256(odd, 1)};
    OPTC_UNROLL for (int m = 0; m < kQuad; ++m) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(t + (m * V + v) * kPixels), rows[m]);
    }
  }
}

inline Bytes gather_rows(const uint8_t* const t[kQuad], ptrdiff_t at) {
  __m128i row[kQuad];
  OPTC_UNROLL for (int i = 0; i < kQuad; ++i) {
    row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(t[i] + at));
  }
  const __m128i low_a = _mm_unpacklo_epi8(row[0], row[1]);
  const __m128i low_b = _mm_unpacklo_epi8(row[2], row[3]);
  const __m128i high_a = _mm_unpackhi_epi8(row[0], row[1]);
  const __m128i high_b = _mm_unpackhi_epi8(row[2], row[3]);
  return {{_mm256_set_m128i(_mm_unpackhi_epi16(low_a, low_b), _mm_unpacklo_epi16(low_a, low_b)),
           _mm256_set_m128i(_mm_unpackhi_epi16(high_a, high_b),
                            _mm_unpacklo_epi16(high_a, high_b))}};
}

inline Bytes flip(const Bytes& bytes) {
  const __m256i bits = _mm256_set1_epi8(char(0x80));
  return {{_mm256_xor_si256(bytes.of[0], bits), _mm256_xor_si256(bytes.of[1], bits)}};
}

template <int V>
inline void dot_rows(Sums* sums, const uint8_t* const t[kQuad], Weight weight) {
  OPTC_UNROLL for (int v = 0; v < V; ++v) {
    const Bytes x = gather_rows(t, v * kPixels);
    sums[v] = {{add_responses(sums[v].of[0], x.of[0], weight),
                add_responses(sums[v].of[1], x.of[1], weight)}};
  }
}

// rint(acc * a + b [+ residual * rho]) of eight pixels.
OPTC_INLINE __m256i rounded(const HybridRowArgs& a, size_t k, Eight sums,
                            const uint8_t* residual) {
  const Requantise& q = *a.requantise;
  __m256 u = _mm256_mul_ps(_mm256_cvtepi32_ps(__m256i(sums)), _mm256_set1_ps(q.a[k]));
  u = _mm256_add_ps(u, _mm256_set1_ps(q.b[k]));
  if (residual != nullptr) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(residual));
    const __m256i r =
        _mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(q.residual_zero));
    u = _mm256_add_ps(u, _mm256_mul_ps(_mm256_cvtepi32_ps(r), _mm256_set1_ps(q.rho)));
  }
  u = _mm256_min_ps(u, _mm256_set1_ps(65536.0f));  // more would turn negative as an integer
  return _mm256_cvtps_epi32(_mm256_round_ps(u, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// Sixteen rounded pixels plus y_zero, clamped.
OPTC_INLINE __m128i to_bytes(const Requantise& q, __m256i low, __m256i high) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  const __m256i y = _mm256_adds_epi16(words, _mm256_set1_epi16(short(q.y_zero)));
  const __m128i bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
  return _mm_min_epu8(_mm_max_epu8(bytes, _mm_set1_epi8(char(q.lower))),
                      _mm_set1_epi8(char(q.upper)));
}

template <int V>
OPTC_INLINE void finish(const HybridRowArgs& a, size_t k, const Sums* sums) {
  OPTC_UNROLL for (int v = 0; v < V; ++v) {
    const int count = a.tile->pixels[v];
    const ptrdiff_t at = a.tile->output[v] + ptrdiff_t(k) * a.plane;
    const uint8_t* residual = a.residual != nullptr ? a.residual + at : nullptr;
    uint8_t copy[kPixels] = {}, y[kPixels];
    if (residual != nullptr && count < kPixels) {
      for (int i = 0; i < count; ++i) copy[i] = residual[i];
      residual = copy;
    }
    const __m256i low = rounded(a, k, sums[v].of[0], residual);
    const __m256i high = rounded(a, k, sums[v].of[1], residual ? residual + 8 : nullptr);
    const __m128i bytes = to_bytes(*a.requantise, low, high);
    if (count == kPixels) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(a.y + at), bytes);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y), bytes);
      for (int i = 0; i < count; ++i) a.y[at + i] = y[i];
    }
  }
}
