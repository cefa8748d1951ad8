// First stage of the kernels of hybrid_kernels.h: responses. Included once per instruction set by a
// file that has defined, in a namespace of its own, the operations below. Sums are 16 int32, one a
// pixel.
//
//     OPTC_INLINE                    of functions that compilers do not inline by themselves
//     OPTC_UNROLL                    a pragma before loops that are to be unrolled, or nothing
//     kOffset                        T - z is stored plus this
//     Bytes, load_bytes(p), store_bytes(p, bytes)    64
//     Zero, make_zero(zero)          the zero point as `permute` takes it
//     permute(p, table, zero)        Bytes: p[table[i]], or `zero` where table[i] is kPadding
//     kDirect                        to permute costs no more than to load what is permuted already
//     Pixels, make_pixels(bytes)     64 bytes of X, [pixel][tap]
//     Sums, make_sums(value)
//     Taps, make_taps(word)          four int8 for every pixel
//     respond(sums, pixels, taps)    sums + dot product of unsigned pixels and signed taps
//     Shift, make_shift(count)
//     pack(r, shift)                 Bytes: T of four responses of a vector
//     store_pair(t, packed)          as [pixel][4]
//     make_rows<V>(t)                V packed vectors become a row for each response
//     gather_rows(p, at)             Bytes: 16 pixels of four rows, [pixel][4]
//     flip(bytes)                    with the uppermost bit of each the other way
//
// Nothing of the standard library may be used here: see kernels_impl.h.

// Quads whose channels are fetched before their use: enough for lines on their way from another core
// to arrive together, not one after the other.
constexpr ptrdiff_t kLeastAhead = 8;
constexpr ptrdiff_t kBytesAhead = 2048;

// Four basis kernels in registers, or in memory where the number of steps S is 0: any.
template <int S>
struct QuadTaps {
  Taps taps[S ? S : 1][kQuad];
  Sums start[kQuad];
  Shift shift[kQuad];
  const uint32_t* words;
  size_t steps;

  QuadTaps(const HybridResponseArgs& a, uint32_t basis)
      : words(a.basis + basis * a.steps * kQuad), steps(a.steps) {
    OPTC_UNROLL for (int m = 0; m < kQuad; ++m) {
      start[m] = make_sums(a.start[basis * kQuad + m]);
      shift[m] = make_shift(a.shift[basis * kQuad + m]);
      OPTC_UNROLL for (int s = 0; s < S; ++s) taps[s][m] = make_taps(words[s * kQuad + m]);
    }
  }
  Taps at(size_t s, int m) const { return S ? taps[s][m] : make_taps(words[s * kQuad + m]); }
};

// R of vector v.
template <int S, typename Look>
OPTC_INLINE void respond_vector(const QuadTaps<S>& quad, const Look& look, int v, Sums r[kQuad]) {
  const size_t steps = S ? S : quad.steps;
  const auto add = [&](size_t s) {
    const size_t i = size_t(v) * steps + s;
    const Pixels pixels = look.at(i, 0);
    OPTC_UNROLL for (int m = 0; m < kQuad; ++m) {
      r[m] = respond(r[m], look.is_four && m > 0 ? look.at(i, m) : pixels, quad.at(s, m));
    }
  };
  OPTC_UNROLL for (int m = 0; m < kQuad; ++m) r[m] = quad.start[m];
  if constexpr (S > 0) {
    OPTC_UNROLL for (size_t s = 0; s < S; ++s) add(s);
  } else {
    for (size_t s = 0; s < steps; ++s) add(s);
  }
}

// R of vectors v and w, where w begins with the last two windows of v.
template <typename Look>
OPTC_INLINE void respond_two(const QuadTaps<3>& quad, const Look& look, int v, int w,
                             Sums of_v[kQuad], Sums of_w[kQuad]) {
  OPTC_UNROLL for (int m = 0; m < kQuad; ++m) of_v[m] = of_w[m] = quad.start[m];
  OPTC_UNROLL for (int s = 0; s < 4; ++s) {
    const Pixels pixels = look.at(size_t(s < 3 ? 3 * v + s : 3 * w + 2), 0);
    OPTC_UNROLL for (int m = 0; m < kQuad; ++m) {
      if (s < 3) of_v[m] = respond(of_v[m], pixels, quad.at(size_t(s), m));
      if (s > 0) of_w[m] = respond(of_w[m], pixels, quad.at(size_t(s - 1), m));
    }
  }
}

// First vector of the i-th two that share windows: see HybridTile::pitch.
constexpr int first_of_two(int i, int pitch) { return i * (3 - pitch); }

// store(v, packed) for every vector. Their number is no constant, because the unrolled loops would
// need too many registers.
template <int S, int P, typename Look, typename Store>
OPTC_INLINE void respond_quad(int vectors, const QuadTaps<S>& quad, const Look& look, Store store) {
  if constexpr (P > 0) {
    for (int i = 0; i < vectors / 2; ++i) {
      const int v = first_of_two(i, P), w = v + P;
      Sums of_v[kQuad], of_w[kQuad];
      respond_two(quad, look, v, w, of_v, of_w);
      store(v, pack(of_v, quad.shift));
      store(w, pack(of_w, quad.shift));
    }
  } else {
    for (int v = 0; v < vectors; ++v) {
      Sums r[kQuad];
      respond_vector(quad, look, v, r);
      store(v, pack(r, quad.shift));
    }
  }
}

// respond(taps, look, t) for every quad.
template <int S, bool kFour, typename Respond>
inline void respond_all(const HybridResponseArgs& args, Respond respond) {
  const HybridResponseArgs a = args;  // as far as the compiler knows, T may lie in `args`
  uint8_t* t = a.t;
  const size_t stride = size_t(a.tile->vectors) * kQuadBytes;
  const Windows windows(a);
  Direct<kDirect ? S : 0> direct(a);
  const Filled<kFour> filled = {a.windows, a.tile->use, a.tile->n_windows};
  const Quad* q = a.quads;
  const Quad* end = q + a.n_quads;
  const Quad* ahead = q;
  const ptrdiff_t channels = kBytesAhead / a.plane;
  const ptrdiff_t distance = channels > kLeastAhead ? channels : kLeastAhead;
  while (ahead < end && ahead < q + distance) windows.prefetch(*ahead++);
  while (q < end) {
    const QuadTaps<S> taps(a, q->basis);
    for (const uint32_t basis = q->basis; q < end && q->basis == basis; ++q, t += stride) {
      if (ahead < end) windows.prefetch(*ahead++);
      if (kDirect && S > 0 && !kFour && windows.are_inside(q->channel)) {
        direct.x = windows.of(q->channel);
        respond(taps, direct, t);
        continue;
      }
      if constexpr (kFour) {
        windows.fill_four(*q, a.windows);
      } else if (q == a.quads || q[-1].channel != q->channel) {
        windows.fill(q->channel, a.windows);
      }
      respond(taps, filled, t);
    }
  }
}

// Four rows of 16 bytes, which may lie at the end of X.
inline Bytes gather_channels(const HybridResponseArgs& a, const uint8_t* const p[kQuad],
                             ptrdiff_t at) {
  bool inside = true;
  for (int i = 0; i < kQuad; ++i) inside &= p[i] + at + kPixels <= a.x_end;
  if (inside) return gather_rows(p, at);
  uint8_t copy[kQuad][kPixels] = {};
  const uint8_t* rows[kQuad];
  for (int i = 0; i < kQuad; ++i) {
    for (int j = 0; j < kPixels && p[i] + at + j < a.x_end; ++j) copy[i][j] = p[i][at + j];
    rows[i] = copy[i];
  }
  return gather_rows(rows, 0);
}

// T is X less 128, [pixel][4] of four channels.
void copy_responses(const HybridResponseArgs& args) {
  const HybridResponseArgs a = args;
  const Windows windows(a);
  const int vectors = a.tile->vectors;
  ptrdiff_t at[kTileVectors] = {};
  for (int v = 0; v < vectors; ++v) at[v] = a.tile->windows[a.tile->use[v]].offset;
  uint8_t* t = a.t;
  for (const Quad *q = a.quads, *end = q + a.n_quads; q < end; ++q) {
    const uint8_t* p[kQuad];
    for (uint32_t i = 0; i < kQuad; ++i) p[i] = windows.of(windows.channel_of(*q, i));
    for (int v = 0; v < vectors; ++v, t += kQuadBytes) {
      const Bytes bytes = gather_channels(a, p, at[v]);
      store_bytes(t, kOffset == 128 ? bytes : flip(bytes));
    }
  }
}

// Two vectors that share windows need many registers.
inline int pitch_of(const HybridResponseArgs& a) { return kDirect ? a.tile->pitch : 0; }

template <int S, int P, bool kFour>
void pair_responses_of(const HybridResponseArgs& a) {
  respond_all<S, kFour>(a, [&](const QuadTaps<S>& quad, const auto& look, uint8_t* t) {
    respond_quad<S, P>(a.tile->vectors, quad, look, [&](int v, const Bytes& packed) {
      store_pair(t + v * kQuadBytes, packed);
    });
  });
}

void pair_responses(const HybridResponseArgs& a) {
  if (a.copies && a.tile->straight) return copy_responses(a);
  if (a.channels_of_quad > 1) {
    return a.steps == 1 ? pair_responses_of<1, 0, true>(a) : pair_responses_of<0, 0, true>(a);
  }
  if (a.steps != 3) return pair_responses_of<0, 0, false>(a);
  switch (pitch_of(a)) {
    case 0: return pair_responses_of<3, 0, false>(a);
    case 1: return pair_responses_of<3, kDirect ? 1 : 0, false>(a);
    default: return pair_responses_of<3, kDirect ? 2 : 0, false>(a);
  }
}

template <int S, int V, int P, bool kFour>
void element_responses_of(const HybridResponseArgs& a) {
  respond_all<S, kFour>(a, [&](const QuadTaps<S>& quad, const auto& look, uint8_t* t) {
    respond_quad<S, P>(a.tile->vectors, quad, look, [&](int v, const Bytes& packed) {
      store_bytes(t + v * kQuadBytes, packed);
    });
    make_rows<V>(t);
  });
}

template <int S, bool kFour>
void element_responses_of(const HybridResponseArgs& a) {
  static_assert(kTileVectors == 4, "one case per number of vectors");
  switch (a.tile->vectors) {
    case 1: return element_responses_of<S, 1, 0, kFour>(a);
    case 2: return element_responses_of<S, 2, 0, kFour>(a);
    case 3: return element_responses_of<S, 3, 0, kFour>(a);
    default: return element_responses_of<S, 4, 0, kFour>(a);
  }
}

void element_responses(const HybridResponseArgs& a) {
  if (a.channels_of_quad > 1) return element_responses_of<0, true>(a);
  if (a.steps != 3) return element_responses_of<0, false>(a);
  switch (pitch_of(a)) {
    case 0: return element_responses_of<3, false>(a);
    case 1: return element_responses_of<3, 4, kDirect ? 1 : 0, false>(a);
    default: return element_responses_of<3, 4, kDirect ? 2 : 0, false>(a);
  }
}
