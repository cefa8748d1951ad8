// Body of the kernels of kernels.h, included once per instruction set by a file that has defined,
// in a namespace of its own, the vector type and its loads:
//
//     kLanes, kBasisRows, kBasisVectors    sizes of the register tile
//     Vector                               kLanes floats (GCC vector extension)
//     masked(p, mask)                      p[lane] where the mask has the lane, else 0; never
//                                          touches memory of other lanes
//     gathered(p, lane_offset, mask)       p[lane_offset[lane]] likewise
//     evens(a, b)                          lanes 0, 2, 4, ... of a, then of b
//
// Nothing of the standard library may be used here: an inline function compiled for AVX-512 could
// replace the portable copy of the same function at link time.

#define OPTC_UNROLL _Pragma("GCC unroll 16")
// gcc takes a function that only prefetches for one that does nothing, unless it is inlined first.
#define OPTC_ALWAYS_INLINE inline __attribute__((always_inline))

static_assert(kLanes <= kMaxLanes, "a mask has a bit for each lane");

inline Vector splat(float value) { return value - Vector{}; }

inline Vector load(const float* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vector v) { __builtin_memcpy(p, &v, sizeof v); }

// Bits 0 .. 7 to bits 0, 2, .. 14.
inline uint16_t spread(unsigned bits) {
  bits = (bits | bits << 4) & 0x0f0f;
  bits = (bits | bits << 2) & 0x3333;
  return uint16_t((bits | bits << 1) & 0x5555);
}

// The pixels that tap t sees from one vector of the tile.
template <Lanes lanes>
inline Vector pixels(const Tile& tile, const float* x, int vector, const Taps& taps, int t) {
  constexpr int kHalf = kLanes / 2;
  const float* p = x + tile.input[vector] + taps.offset[t];
  const uint16_t mask = tile.mask[vector][t];
  if (lanes == kNeighbours) return masked(p, mask);
  const int32_t* offset = tile.lane_offset[vector];
  if (lanes == kScattered) return gathered(p, offset, mask);
  return evens(masked(p, spread(mask & ((1 << kHalf) - 1))),
               masked(p + offset[kHalf], spread(mask >> kHalf)));
}

// T[r, first + v] = sum_t B[m_r, t] * x[t, first + v] for R rows and V vectors in registers.
template <int R, int V, Lanes lanes>
void respond(const ResponseArgs& a, const float* x, const uint32_t* m, float* t_rows, int first) {
  const Taps taps = a.taps;
  const Tile& tile = *a.tile;
  const float* basis[R];
  for (int r = 0; r < R; ++r) basis[r] = a.basis + size_t(m[r]) * taps.count;
  Vector sum[R][V] = {};
  for (int t = 0; t < taps.count; ++t) {
    Vector in[V];
    OPTC_UNROLL for (int v = 0; v < V; ++v) in[v] = pixels<lanes>(tile, x, first + v, taps, t);
    OPTC_UNROLL for (int r = 0; r < R; ++r) {
      const Vector b = splat(basis[r][t]);
      OPTC_UNROLL for (int v = 0; v < V; ++v) sum[r][v] += b * in[v];
    }
  }
  const ptrdiff_t stride = ptrdiff_t(tile.vectors) * kLanes;
  OPTC_UNROLL for (int r = 0; r < R; ++r) {
    OPTC_UNROLL for (int v = 0; v < V; ++v) {
      store(t_rows + r * stride + (first + v) * kLanes, sum[r][v]);
    }
  }
}

using Respond = void (*)(const ResponseArgs&, const float*, const uint32_t*, float*, int);

template <int V, Lanes lanes>
Respond respond_rows(int rows) {
  static_assert(kBasisRows == 6, "one entry per number of rows");
  static constexpr Respond table[] = {respond<1, V, lanes>, respond<2, V, lanes>,
                                      respond<3, V, lanes>, respond<4, V, lanes>,
                                      respond<5, V, lanes>, respond<6, V, lanes>};
  return table[rows - 1];
}

// All rows of one channel for V vectors, in groups of at most kBasisRows of nearly equal size.
template <int V, Lanes lanes>
void respond_channel(const ResponseArgs& a, const Channel& channel, int first) {
  const float* x = a.x + ptrdiff_t(channel.index) * a.plane;
  const ptrdiff_t stride = ptrdiff_t(a.tile->vectors) * kLanes;
  const uint32_t groups = (channel.rows + kBasisRows - 1) / kBasisRows;
  uint32_t row = channel.first_row;
  for (uint32_t group = 0, left = channel.rows; group < groups; ++group) {
    const uint32_t rows = (left + groups - group - 1) / (groups - group);
    float* t = a.t + ptrdiff_t(row - a.t_row) * stride;
    respond_rows<V, lanes>(int(rows))(a, x, a.row_basis + row, t, first);
    row += rows;
    left -= rows;
  }
}

// Where a channel of X is large, the processor does not foresee the jump to the next one.
OPTC_ALWAYS_INLINE void fetch_pixels(const ResponseArgs& a, const Channel& channel) {
  const float* x = a.x + ptrdiff_t(channel.index) * a.plane;
  for (int t = 0; t < a.taps.count; t += a.taps.width) {
    for (int v = 0; v < a.tile->vectors; ++v) {
      __builtin_prefetch(x + a.tile->input[v] + a.taps.offset[t]);
    }
  }
}

template <Lanes lanes>
void respond_tile(const ResponseArgs& a) {
  const int vectors = a.tile->vectors;
  for (size_t c = 0; c < a.n_channels; ++c) {
    if (a.tile->far && c + 1 < a.n_channels) fetch_pixels(a, a.channels[c + 1]);
    int first = 0;
    while (vectors - first >= kBasisVectors) {
      respond_channel<kBasisVectors, lanes>(a, a.channels[c], first);
      first += kBasisVectors;
    }
    if constexpr (kBasisVectors > 2) {
      if (vectors - first == 3) respond_channel<3, lanes>(a, a.channels[c], first);
      if (vectors - first == 2) respond_channel<2, lanes>(a, a.channels[c], first);
    }
    if (vectors - first == 1) respond_channel<1, lanes>(a, a.channels[c], first);
  }
}

void responses(const ResponseArgs& a) {
  switch (a.tile->lanes) {
    case kNeighbours: return respond_tile<kNeighbours>(a);
    case kEverySecond: return respond_tile<kEverySecond>(a);
    case kScattered: return respond_tile<kScattered>(a);
  }
}

// Ends the sum of one vector: bias or earlier passes, residual, activation.
inline Vector finish(const RowArgs& a, Vector sum, Vector before, const float* residual) {
  sum += before;
  if (!a.last) return sum;
  if (residual) sum += load(residual);
  if (a.clamp) {  // in this order NaN stays NaN
    const Vector lower = splat(a.lower), upper = splat(a.upper);
    sum = sum < lower ? lower : sum;
    sum = sum > upper ? upper : sum;
  }
  return sum;
}

// The same for a vector with fewer pixels than lanes, by way of full-size copies.
inline void finish_partial(const RowArgs& a, Vector sum, size_t k, ptrdiff_t at, int count) {
  float before[kLanes] = {}, residual[kLanes] = {}, y[kLanes];
  for (int l = 0; l < count; ++l) {
    before[l] = a.first ? a.bias[k] : a.y[at + l];
    if (a.residual) residual[l] = a.residual[at + l];
  }
  store(y, finish(a, sum, load(before), a.residual ? residual : nullptr));
  for (int l = 0; l < count; ++l) a.y[at + l] = y[l];
}

// The coefficients of a pass lie in pieces that the processor does not foresee.
OPTC_ALWAYS_INLINE void prefetch(const Coefficient* c) {
  const char* line = reinterpret_cast<const char*>(c);
  OPTC_UNROLL for (int i = 0; i < 4; ++i) __builtin_prefetch(line + 64 * i);
}

// One output channel at a time: V vectors of Y stay in registers over all its coefficients. Few
// vectors get several partial sums each, because one chain of additions would wait for itself.
template <int V>
void row_sums(const RowArgs& a) {
  constexpr int kChains = V == 1 ? 6 : V == 2 ? 3 : 2;
  const Tile& tile = *a.tile;
  const float* t_begin = a.t - ptrdiff_t(a.t_row) * (V * kLanes);  // row 0 of T
  for (size_t k = a.k_begin; k < a.k_end; ++k) {
    const Coefficient* c = a.coefficients + a.begin[k * a.stride];
    const Coefficient* end = a.coefficients + a.end[k * a.stride];
    if (c == end && !a.first && !a.last) continue;
    if (k + 2 < a.k_end) prefetch(a.coefficients + a.begin[(k + 2) * a.stride]);
    if (tile.far && k + 1 < a.k_end) {
      float* next = a.y + ptrdiff_t(k + 1) * a.plane;
      OPTC_UNROLL for (int v = 0; v < V; ++v) __builtin_prefetch(next + tile.output[v], 1);
    }
    Vector sum[kChains][V] = {};
    for (; end - c >= kChains; c += kChains) {
      OPTC_UNROLL for (int i = 0; i < kChains; ++i) {
        const float* t = t_begin + ptrdiff_t(c[i].row) * (V * kLanes);
        const Vector value = splat(c[i].value);
        OPTC_UNROLL for (int v = 0; v < V; ++v) sum[i][v] += value * load(t + v * kLanes);
      }
    }
    for (; c < end; ++c) {
      const float* t = t_begin + ptrdiff_t(c->row) * (V * kLanes);
      const Vector value = splat(c->value);
      OPTC_UNROLL for (int v = 0; v < V; ++v) sum[0][v] += value * load(t + v * kLanes);
    }
    OPTC_UNROLL for (int v = 0; v < V; ++v) {
      OPTC_UNROLL for (int i = 1; i < kChains; ++i) sum[0][v] += sum[i][v];
      const ptrdiff_t at = tile.output[v] + ptrdiff_t(k) * a.plane;
      if (tile.pixels[v] < kLanes) {
        finish_partial(a, sum[0][v], k, at, tile.pixels[v]);
      } else {
        const Vector before = a.first ? splat(a.bias[k]) : load(a.y + at);
        store(a.y + at, finish(a, sum[0][v], before, a.residual ? a.residual + at : nullptr));
      }
    }
  }
}

void rows(const RowArgs& a) {
  static_assert(kMaxVectors == 4, "one entry per number of vectors");
  static constexpr void (*table[])(const RowArgs&) = {row_sums<1>, row_sums<2>, row_sums<3>,
                                                      row_sums<4>};
  table[a.tile->vectors - 1](a);
}
