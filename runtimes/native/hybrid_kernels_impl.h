// Body of the kernels of hybrid_kernels.h, included once per instruction set by a file that has
// defined, in a namespace of its own, the operations below. Sums are 16 int32, one a pixel.
//
//     kOffset                        T is stored plus this
//     permute(out, p, table, zero)   64 bytes: p[table[i]], or `zero` where table[i] is kPadding
//     Pixels, load_pixels(p)         64 bytes of X, [pixel][tap]
//     Taps, make_taps(word)          four int8 for every pixel
//     respond(sums, pixels, taps)    sums + dot product of unsigned pixels and signed taps
//     Shift, make_shift(count)
//     store_pair<V>(t, r, shift)     T of four responses of a vector, [pixel][4]
//     store_row<V>(t, r, shift)      T of one response of V vectors
//     Weight, make_weight(word)      four int8 of Ce
//     dot(sums, p, weight)           sums + dot product with 64 bytes of T at p
//     Words<V>, add, subtract, spill the same for signs, 16 bits wide
//     finish<V>(args, k, sums)       requantises and stores V vectors
//
// Nothing of the standard library may be used here: see kernels_impl.h.

#define OPTC_UNROLL _Pragma("GCC unroll 16")

// The window of a channel where it does not lie in X entirely, or not within 64 bytes.
inline void fill_at_edge(const HybridResponseArgs& a, const Window& window, const uint8_t* p,
                         uint8_t* out) {
  if (window.scattered != nullptr) {
    for (int i = 0; i < kWindow; ++i) {
      out[i] = window.scattered[i] < 0 ? a.zero_point : p[window.scattered[i]];
    }
    return;
  }
  uint8_t copy[kWindow] = {};
  for (int i = 0; i < kWindow; ++i) {
    if (p + i >= a.x_begin && p + i < a.x_end) copy[i] = p[i];
  }
  permute(out, copy, window.table, a.zero_point);
}

inline void fill_windows(const HybridResponseArgs& a, uint32_t channel) {
  const uint8_t* x = a.x + ptrdiff_t(channel) * a.plane;
  for (size_t i = 0; i < a.tile->n_windows; ++i) {
    const Window& window = a.tile->windows[i];
    const uint8_t* p = x + window.offset;
    uint8_t* out = a.windows + i * kWindow;
    if (__builtin_expect(window.table != nullptr && p >= a.x_begin && p + kWindow <= a.x_end, 1)) {
      permute(out, p, window.table, a.zero_point);
    } else {
      fill_at_edge(a, window, p, out);
    }
  }
}

// One quad over all vectors, [pixel][4]. S steps, or any number where S is 0.
template <int S>
inline void respond_pair(const HybridResponseArgs& a, uint32_t basis, uint8_t* t) {
  const size_t steps = S ? S : a.steps;
  const uint32_t* words = a.basis + basis * steps * kQuad;
  const int32_t* start = a.start + basis * kQuad;
  Shift shift[kQuad];
  OPTC_UNROLL for (int m = 0; m < kQuad; ++m) shift[m] = make_shift(a.shift[basis * kQuad + m]);
  Taps taps[S ? S : 1][kQuad];
  for (int s = 0; s < S; ++s) {
    OPTC_UNROLL for (int m = 0; m < kQuad; ++m) taps[s][m] = make_taps(words[s * kQuad + m]);
  }
  const uint32_t* use = a.tile->use;
  for (int v = 0; v < a.tile->vectors; ++v, use += steps, t += kQuadBytes) {
    Sums r[kQuad];
    OPTC_UNROLL for (int m = 0; m < kQuad; ++m) r[m] = make_sums(start[m]);
    for (size_t s = 0; s < steps; ++s) {
      const Pixels pixels = load_pixels(a.windows + use[s]);
      OPTC_UNROLL for (int m = 0; m < kQuad; ++m) {
        r[m] = respond(r[m], pixels, S ? taps[s][m] : make_taps(words[s * kQuad + m]));
      }
    }
    store_pair(t, r, shift);
  }
}

// One quad over V vectors, [4][pixel].
template <int S, int V>
inline void respond_signs(const HybridResponseArgs& a, uint32_t basis, uint8_t* t) {
  const size_t steps = S ? S : a.steps;
  const uint32_t* words = a.basis + basis * steps * kQuad;
  for (int m = 0; m < kQuad; ++m, t += V * kPixels) {
    Sums r[V];
    OPTC_UNROLL for (int v = 0; v < V; ++v) r[v] = make_sums(a.start[basis * kQuad + m]);
    for (size_t s = 0; s < steps; ++s) {
      const Taps taps = make_taps(words[s * kQuad + m]);
      OPTC_UNROLL for (int v = 0; v < V; ++v) {
        r[v] = respond(r[v], load_pixels(a.windows + a.tile->use[v * steps + s]), taps);
      }
    }
    store_row<V>(t, r, make_shift(a.shift[basis * kQuad + m]));
  }
}

template <typename Respond>
inline void respond_all(const HybridResponseArgs& a, Respond respond_quad) {
  uint8_t* t = a.t;
  const size_t stride = size_t(a.tile->vectors) * kQuadBytes;
  for (size_t q = 0; q < a.n_quads; ++q, t += stride) {
    if (q == 0 || a.quads[q].channel != a.quads[q - 1].channel) fill_windows(a, a.quads[q].channel);
    respond_quad(a.quads[q].basis, t);
  }
}

template <int S>
void pair_responses_of(const HybridResponseArgs& a) {
  respond_all(a, [&](uint32_t basis, uint8_t* t) { respond_pair<S>(a, basis, t); });
}

void pair_responses(const HybridResponseArgs& a) {
  if (a.steps == 1) return pair_responses_of<1>(a);
  if (a.steps == 3) return pair_responses_of<3>(a);
  pair_responses_of<0>(a);
}

template <int S, int V>
void sign_responses_of(const HybridResponseArgs& a) {
  respond_all(a, [&](uint32_t basis, uint8_t* t) { respond_signs<S, V>(a, basis, t); });
}

template <int S>
void sign_responses_of(const HybridResponseArgs& a) {
  static_assert(kTileVectors == 4, "one case per number of vectors");
  switch (a.tile->vectors) {
    case 1: return sign_responses_of<S, 1>(a);
    case 2: return sign_responses_of<S, 2>(a);
    case 3: return sign_responses_of<S, 3>(a);
    default: return sign_responses_of<S, 4>(a);
  }
}

void sign_responses(const HybridResponseArgs& a) {
  a.steps == 3 ? sign_responses_of<3>(a) : sign_responses_of<0>(a);
}

// One output channel at a time. Few vectors get several partial sums each, because one chain of
// additions would wait for itself.
template <int V>
void pair_rows_of(const HybridRowArgs& a) {
  constexpr int kChains = V == 1 ? 6 : V == 2 ? 3 : 2;
  constexpr ptrdiff_t kStride = V * kQuadBytes;
  for (size_t k = a.k_begin; k < a.k_end; ++k) {
    const PairWeight* pair = a.pairs + a.begin[k];
    const PairWeight* end = a.pairs + a.begin[k + 1];
    Sums sums[kChains][V];
    OPTC_UNROLL for (int i = 0; i < kChains; ++i) {
      OPTC_UNROLL for (int v = 0; v < V; ++v) {
        sums[i][v] = make_sums(i == 0 ? a.requantise->start[k] : 0);
      }
    }
    for (; end - pair >= kChains; pair += kChains) {
      OPTC_UNROLL for (int i = 0; i < kChains; ++i) {
        const uint8_t* t = a.t + pair[i].quad * kStride;
        const Weight weight = make_weight(pair[i].weight);
        OPTC_UNROLL for (int v = 0; v < V; ++v) {
          sums[i][v] = dot(sums[i][v], t + v * kQuadBytes, weight);
        }
      }
    }
    for (; pair < end; ++pair) {
      const uint8_t* t = a.t + pair->quad * kStride;
      const Weight weight = make_weight(pair->weight);
      OPTC_UNROLL for (int v = 0; v < V; ++v) {
        sums[0][v] = dot(sums[0][v], t + v * kQuadBytes, weight);
      }
    }
    OPTC_UNROLL for (int i = 1; i < kChains; ++i) {
      OPTC_UNROLL for (int v = 0; v < V; ++v) sums[0][v] = sum(sums[0][v], sums[i][v]);
    }
    finish<V>(a, k, sums[0]);
  }
}

// Four output channels at a time, which share the loads of T.
template <int V>
void dense_rows_of(const HybridRowArgs& a) {
  constexpr ptrdiff_t kStride = V * kQuadBytes;
  for (size_t k = a.k_begin; k < a.k_end; k += kDenseRows) {
    const uint32_t* words = a.dense + k * a.quads_per_group;
    const uint8_t* t = a.t + ptrdiff_t(k / a.k_group * a.quads_per_group) * kStride;
    Sums sums[kDenseRows][V];
    OPTC_UNROLL for (int i = 0; i < kDenseRows; ++i) {
      OPTC_UNROLL for (int v = 0; v < V; ++v) {
        sums[i][v] = make_sums(a.requantise->start[k + size_t(i)]);
      }
    }
    for (size_t q = 0; q < a.quads_per_group; ++q, t += kStride, words += kDenseRows) {
      OPTC_UNROLL for (int i = 0; i < kDenseRows; ++i) {
        const Weight weight = make_weight(words[i]);
        OPTC_UNROLL for (int v = 0; v < V; ++v) {
          sums[i][v] = dot(sums[i][v], t + v * kQuadBytes, weight);
        }
      }
    }
    OPTC_UNROLL for (int i = 0; i < kDenseRows; ++i) finish<V>(a, k + size_t(i), sums[i]);
  }
}

// One run of rows to add and to subtract.
template <int V>
inline Words<V> run_words(const HybridRowArgs& a, const SignRun& run) {
  Words<V> words = {};
  constexpr ptrdiff_t kStride = V * kPixels;
  for (uint32_t i = run.plus; i < run.minus; ++i) words.add(a.t + a.signs[i] * kStride);
  for (uint32_t i = run.minus; i < run.end; ++i) words.subtract(a.t + a.signs[i] * kStride);
  return words;
}

template <int V>
void sign_rows_of(const HybridRowArgs& a) {
  for (size_t k = a.k_begin; k < a.k_end; ++k) {
    Sums sums[V];
    OPTC_UNROLL for (int v = 0; v < V; ++v) sums[v] = make_sums(a.requantise->start[k]);
    const SignRun* run = a.runs + a.begin[k];
    const SignRun* end = a.runs + a.begin[k + 1];
    for (; end - run >= 2; run += 2) {
      spill(sums, run_words<V>(a, run[0]), run[0].level, run_words<V>(a, run[1]), run[1].level);
    }
    if (run < end) spill(sums, run_words<V>(a, run[0]), run[0].level, Words<V>{}, 0);
    finish<V>(a, k, sums);
  }
}

#define OPTC_BY_VECTORS(rows)                  \
  void rows(const HybridRowArgs& a) {          \
    switch (a.tile->vectors) {                 \
      case 1: return rows##_of<1>(a);          \
      case 2: return rows##_of<2>(a);          \
      case 3: return rows##_of<3>(a);          \
      default: return rows##_of<4>(a);         \
    }                                          \
  }
OPTC_BY_VECTORS(pair_rows)
OPTC_BY_VECTORS(dense_rows)
OPTC_BY_VECTORS(sign_rows)
#undef OPTC_BY_VECTORS
