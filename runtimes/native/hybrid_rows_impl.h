// Second stage of the kernels of hybrid_kernels.h: sums of responses, and their end. Included like
// hybrid_responses_impl.h, behind it, with these operations too:
//
//     kSums                          sums that are added to in turns, so that none is waited for
//     sum(a, b)
//     Weight, make_weight(word)      four int8 of Ce
//     dot(sums, p, weight)           sums + dot product with 64 bytes of T at p
//     dot_rows<V>(sums, p, weight)   the same of V vectors with four rows of T
//     finish<V>(args, k, sums)       requantises and stores V vectors

constexpr int at_least_one(int x) { return x < 1 ? 1 : x; }

// A copy of the arguments with all that they point to but arrays: of anything else, the compiler
// must expect that a stored byte has changed it.
struct OwnRowArgs : HybridRowArgs {
  explicit OwnRowArgs(const HybridRowArgs& a)
      : HybridRowArgs(a), own_tile(*a.tile), own_requantise(*a.requantise) {
    tile = &own_tile, requantise = &own_requantise;
  }
  OwnRowArgs(const OwnRowArgs&) = delete;

  const HybridTile own_tile;
  const Requantise own_requantise;
};

// One output channel at a time: add(sums, item) for all that it stores. Few vectors get several
// partial sums each, because one chain of additions would wait for itself.
template <int V, typename Item, typename Add>
OPTC_INLINE void sparse_rows_of(const OwnRowArgs& a, const Item* items, Add add) {
  constexpr int kChains = at_least_one(kSums / V);
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
void pair_rows_of(const OwnRowArgs& a) {
  sparse_rows_of<V>(a, a.pairs, [&](Sums* sums, const PairWeight& pair) {
    const uint8_t* t = a.t + ptrdiff_t(pair.quad) * (V * kQuadBytes);
    const Weight weight = make_weight(pair.weight);
    OPTC_UNROLL for (int v = 0; v < V; ++v) sums[v] = dot(sums[v], t + v * kQuadBytes, weight);
  });
}

template <int V>
void element_rows_of(const OwnRowArgs& a) {
  sparse_rows_of<V>(a, a.fours, [&](Sums* sums, const FourWeights& four) {
    const uint8_t* t[kQuad];
    OPTC_UNROLL for (int i = 0; i < kQuad; ++i) {
      t[i] = a.t + ptrdiff_t(four.rows[i]) * (V * kPixels);
    }
    dot_rows<V>(sums, t, make_weight(four.weight));
  });
}

// F fours of output channels, which share the loads of T.
template <int V, int F>
OPTC_INLINE void dense_block(const OwnRowArgs& a, size_t k) {
  constexpr ptrdiff_t kStride = V * kQuadBytes;
  constexpr int kRows = F * kDenseRows;
  const size_t quads = a.quads_per_group;
  const uint32_t* words = a.dense + k * quads;
  const uint8_t* t = a.t + ptrdiff_t(k / a.k_group * quads) * kStride;
  Sums sums[kRows][V];
  OPTC_UNROLL for (int i = 0; i < kRows; ++i) {
    OPTC_UNROLL for (int v = 0; v < V; ++v) {
      sums[i][v] = make_sums(a.requantise->start[k + size_t(i)]);
    }
  }
  for (size_t q = 0; q < quads; ++q, t += kStride, words += kDenseRows) {
    OPTC_UNROLL for (int i = 0; i < kRows; ++i) {
      const size_t four = size_t(i / kDenseRows) * quads * kDenseRows;
      const Weight weight = make_weight(words[four + size_t(i % kDenseRows)]);
      OPTC_UNROLL for (int v = 0; v < V; ++v) {
        sums[i][v] = dot(sums[i][v], t + v * kQuadBytes, weight);
      }
    }
  }
  OPTC_UNROLL for (int i = 0; i < kRows; ++i) finish<V>(a, k + size_t(i), sums[i]);
}

// Few vectors get more output channels at once, as they get more chains above.
template <int V>
void dense_rows_of(const OwnRowArgs& a) {
  constexpr int kFours = at_least_one(kSums / (V * kDenseRows));
  for (size_t k = a.k_begin; k < a.k_end;) {
    const size_t left = a.k_end - k, in_group = a.k_group - k % a.k_group;
    const bool few = (left < in_group ? left : in_group) < kFours * kDenseRows;
    few ? dense_block<V, 1>(a, k) : dense_block<V, kFours>(a, k);
    k += (few ? 1 : kFours) * kDenseRows;
  }
}

#define OPTC_BY_VECTORS(rows)                  \
  void rows(const HybridRowArgs& args) {       \
    const OwnRowArgs a(args);                  \
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
