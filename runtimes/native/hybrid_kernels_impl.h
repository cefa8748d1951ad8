// Body of the kernels of hybrid_kernels.h, included once per instruction set by a file that has
// defined, in a namespace of its own, the operations below. Sums are 16 int32, one a pixel.
//
//     OPTC_UNROLL                    a pragma before loops that are to be unrolled, or nothing
//     kOffset                        T is stored plus this
//     make_zero(zero)                the zero point as `permute` takes it
//     permute(out, p, table, zero)   64 bytes: p[table[i]], or `zero` where table[i] is kPadding
//     Pixels, load_pixels(p)         64 bytes of X, [pixel][tap]
//     Taps, make_taps(word)          four int8 for every pixel
//     respond(sums, pixels, taps)    sums + dot product of unsigned pixels and signed taps
//     Shift, make_shift(count)
//     store_pair<V>(t, r, shift)     T of four responses of a vector, [pixel][4]
//     store_row<V>(t, r, shift)      T of one response of V vectors
//     Weight, make_weight(word)      four int8 of Ce
//     dot(sums, p, weight)           sums + dot product with 64 bytes of T at p
//     dot_rows<V>(sums, p, weight)   the same of V vectors with four rows of T
//     finish<V>(args, k, sums)       requantises and stores V vectors
//
// Nothing of the standard library may be used here: see kernels_impl.h.

constexpr ptrdiff_t kAhead = 8;   // quads whose channels are fetched before their use
constexpr ptrdiff_t kLine = 64;   // bytes
constexpr ptrdiff_t kNear = 1024;  // bytes of a channel that are worth it

// A window where it does not lie in X entirely, or not within 64 bytes.
inline void fill_at_edge(const HybridResponseArgs& a, const Window& window, const uint8_t* p,
                         uint8_t* out) {
  if (window.table == nullptr) {
    for (int i = 0; i < kWindow; ++i) {
      out[i] = window.scattered[i] < 0 ? a.zero_point : p[window.scattered[i]];
    }
    return;
  }
  uint8_t copy[kWindow] = {};
  for (int i = 0; i < kWindow; ++i) {
    if (p + i >= a.x_begin && p + i < a.x_end) copy[i] = p[i];
  }
  permute(out, copy, window.table, make_zero(a.zero_point));
}

// Fills the windows of a channel.
class WindowFiller {
 public:
  explicit WindowFiller(const HybridResponseArgs& a)
      : a_(a), zero_(make_zero(a.zero_point)), begin_(a.tile->windows),
        end_(begin_ + a.tile->n_windows), low_(0), high_(0), scattered_(false) {
    for (const Window* window = begin_; window < end_; ++window) {
      if (window == begin_ || window->offset < low_) low_ = window->offset;
      if (window == begin_ || window->offset > high_) high_ = window->offset;
      scattered_ |= window->table == nullptr;
    }
  }

  // Begins to fetch what the windows of a channel show: another core may have written it.
  void prefetch(uint32_t channel) const {
    const ptrdiff_t first = a_.tile->x_first, last = a_.tile->x_last;
    if (last - first > kNear) return;
    const uint8_t* x = a_.x + ptrdiff_t(channel) * a_.plane;
    for (ptrdiff_t at = first; at < last; at += kLine) __builtin_prefetch(x + at);
    __builtin_prefetch(x + last);
  }

  void fill(uint32_t channel, uint8_t* out) const {
    const uint8_t* x = a_.x + ptrdiff_t(channel) * a_.plane;
    if (scattered_ || x + low_ < a_.x_begin || x + high_ + kWindow > a_.x_end) {
      for (const Window* window = begin_; window < end_; ++window, out += kWindow) {
        fill_at_edge(a_, *window, x + window->offset, out);
      }
      return;
    }
    const auto zero = zero_;
    for (const Window *window = begin_, *end = end_; window < end; ++window, out += kWindow) {
      permute(out, x + window->offset, window->table, zero);
    }
  }

 private:
  const HybridResponseArgs& a_;
  decltype(make_zero(0)) zero_;
  const Window *begin_, *end_;
  ptrdiff_t low_, high_;
  bool scattered_;
};

// Four basis kernels in registers, or in memory where the number of steps S is 0: any.
template <int S>
struct QuadTaps {
  Taps taps[S ? S : 1][kQuad];
  Sums start[kQuad];
  Shift shift[kQuad];
  const uint32_t* words;

  QuadTaps(const HybridResponseArgs& a, uint32_t basis)
      : words(a.basis + basis * a.steps * kQuad) {
    OPTC_UNROLL for (int m = 0; m < kQuad; ++m) {
      start[m] = make_sums(a.start[basis * kQuad + m]);
      shift[m] = make_shift(a.shift[basis * kQuad + m]);
      OPTC_UNROLL for (int s = 0; s < S; ++s) taps[s][m] = make_taps(words[s * kQuad + m]);
    }
  }
  Taps at(size_t s, int m) const { return S ? taps[s][m] : make_taps(words[s * kQuad + m]); }
};

// One quad over all vectors, [pixel][4].
template <int S>
inline void respond_pair(const HybridResponseArgs& a, const QuadTaps<S>& quad,
                         const uint8_t* windows, uint8_t* t) {
  const size_t steps = S ? S : a.steps;
  const uint32_t* use = a.tile->use;
  for (int v = 0; v < a.tile->vectors; ++v, use += steps, t += kQuadBytes) {
    Sums r[kQuad] = {quad.start[0], quad.start[1], quad.start[2], quad.start[3]};
    OPTC_UNROLL for (size_t s = 0; s < steps; ++s) {
      const Pixels pixels = load_pixels(windows + use[s]);
      OPTC_UNROLL for (int m = 0; m < kQuad; ++m) r[m] = respond(r[m], pixels, quad.at(s, m));
    }
    store_pair(t, r, quad.shift);
  }
}

// One quad over V vectors, [4][pixel].
template <int S, int V>
inline void respond_elements(const HybridResponseArgs& a, const QuadTaps<S>& quad,
                          const uint8_t* windows, uint8_t* t) {
  const size_t steps = S ? S : a.steps;
  const uint32_t* use = a.tile->use;
  Sums r[kQuad][V];
  OPTC_UNROLL for (int v = 0; v < V; ++v, use += steps) {
    OPTC_UNROLL for (int m = 0; m < kQuad; ++m) r[m][v] = quad.start[m];
    OPTC_UNROLL for (size_t s = 0; s < steps; ++s) {
      const Pixels pixels = load_pixels(windows + use[s]);
      OPTC_UNROLL for (int m = 0; m < kQuad; ++m) {
        r[m][v] = respond(r[m][v], pixels, quad.at(s, m));
      }
    }
  }
  OPTC_UNROLL for (int m = 0; m < kQuad; ++m) {
    store_row<V>(t + m * V * kPixels, r[m], quad.shift[m]);
  }
}

// Windows of the next channel are made before the present one is used: their stores have time to
// reach the cache.
template <int S, typename Respond>
inline void respond_all(const HybridResponseArgs& a, Respond respond_quad) {
  uint8_t* windows = a.windows;
  uint8_t* other = a.windows + a.tile->n_windows * kWindow;
  uint8_t* t = a.t;
  const size_t stride = size_t(a.tile->vectors) * kQuadBytes;
  const Quad* q = a.quads;
  const Quad* end = q + a.n_quads;
  const WindowFiller filler(a);
  const Quad* ahead = q;
  while (ahead < end && ahead < q + kAhead) filler.prefetch((ahead++)->channel);
  if (q < end) filler.fill(q->channel, windows);
  while (q < end) {
    const QuadTaps<S> taps(a, q->basis);
    for (const uint32_t basis = q->basis; q < end && q->basis == basis; ++q, t += stride) {
      if (ahead < end) filler.prefetch((ahead++)->channel);
      const bool last = q + 1 < end && q[1].channel != q->channel;
      if (last) filler.fill(q[1].channel, other);
      respond_quad(taps, windows, t);
      if (!last) continue;
      uint8_t* const used = windows;
      windows = other, other = used;
    }
  }
}

template <int S>
void pair_responses_of(const HybridResponseArgs& a) {
  respond_all<S>(a, [&](const QuadTaps<S>& quad, const uint8_t* windows, uint8_t* t) {
    respond_pair<S>(a, quad, windows, t);
  });
}

void pair_responses(const HybridResponseArgs& a) {
  if (a.steps == 1) return pair_responses_of<1>(a);
  if (a.steps == 3) return pair_responses_of<3>(a);
  pair_responses_of<0>(a);
}

template <int S, int V>
void element_responses_of(const HybridResponseArgs& a) {
  respond_all<S>(a, [&](const QuadTaps<S>& quad, const uint8_t* windows, uint8_t* t) {
    respond_elements<S, V>(a, quad, windows, t);
  });
}

template <int S>
void element_responses_of(const HybridResponseArgs& a) {
  static_assert(kTileVectors == 4, "one case per number of vectors");
  switch (a.tile->vectors) {
    case 1: return element_responses_of<S, 1>(a);
    case 2: return element_responses_of<S, 2>(a);
    case 3: return element_responses_of<S, 3>(a);
    default: return element_responses_of<S, 4>(a);
  }
}

void element_responses(const HybridResponseArgs& a) {
  a.steps == 3 ? element_responses_of<3>(a) : element_responses_of<0>(a);
}

// One output channel at a time: add(sums, item) for all that it stores. Few vectors get several
// partial sums each, because one chain of additions would wait for itself.
template <int V, typename Item, typename Add>
inline void sparse_rows_of(const HybridRowArgs& a, const Item* items, Add add) {
  constexpr int kChains = V == 1 ? 4 : V == 4 ? 1 : 2;
  for (size_t row = a.k_begin; row < a.k_end; ++row) {
    const size_t k = a.order[row];
    const Item* item = items + a.begin[row];
    const Item* end = items + a.begin[row + 1];
    Sums sums[kChains][V];
    OPTC_UNROLL for (int i = 0; i < kChains; ++i) {
      OPTC_UNROLL for (int v = 0; v < V; ++v) {
        sums[i][v] = make_sums(i == 0 ? a.requantise->start[k] : 0);
      }
    }
    for (; end - item >= kChains; item += kChains) {
      OPTC_UNROLL for (int i = 0; i < kChains; ++i) add(sums[i], item[i]);
    }
    for (; item < end; ++item) add(sums[0], *item);
    OPTC_UNROLL for (int i = 1; i < kChains; ++i) {
      OPTC_UNROLL for (int v = 0; v < V; ++v) sums[0][v] = sum(sums[0][v], sums[i][v]);
    }
    finish<V>(a, k, sums[0]);
  }
}

template <int V>
void pair_rows_of(const HybridRowArgs& a) {
  sparse_rows_of<V>(a, a.pairs, [&](Sums* sums, const PairWeight& pair) {
    const uint8_t* t = a.t + ptrdiff_t(pair.quad) * (V * kQuadBytes);
    const Weight weight = make_weight(pair.weight);
    OPTC_UNROLL for (int v = 0; v < V; ++v) sums[v] = dot(sums[v], t + v * kQuadBytes, weight);
  });
}

template <int V>
void element_rows_of(const HybridRowArgs& a) {
  sparse_rows_of<V>(a, a.fours, [&](Sums* sums, const FourWeights& four) {
    const uint8_t* t[kQuad];
    OPTC_UNROLL for (int i = 0; i < kQuad; ++i) {
      t[i] = a.t + ptrdiff_t(four.rows[i]) * (V * kPixels);
    }
    dot_rows<V>(sums, t, make_weight(four.weight));
  });
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
OPTC_BY_VECTORS(element_rows)
#undef OPTC_BY_VECTORS
