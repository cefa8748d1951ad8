// Constants of a HybridDecomposedConv node as the file has them: checked, and its symbols decoded.
#pragma once

#include <cstdint>
#include <vector>

#include "constants.h"

namespace optc {

constexpr int kMaxCoefficient = 127;  // of |Ce| and |B|

struct HybridAttributes {
  Attributes conv;
  int64_t value_bits = 8, block = 1, lower = 0, upper = 255;
};

// A uint8 tensor q stands for scale * (q - zero_point).
struct Quantisation {
  Constant<float> scale;
  Constant<uint8_t> zero_point;
};

struct HybridConstants {
  Quantisation x;
  Constant<int8_t> basis;              // (M, *kernel)
  Constant<uint8_t> shift;             // (M,)
  Constant<uint8_t> values;            // (n_bytes,) packed symbols
  Constant<uint8_t> positions;         // (n_bytes,)
  Constant<int8_t> levels;             // (K, M)
  Constant<float> scale, bias;         // (K,), bias may be absent
  Quantisation y;
  Quantisation residual;               // absent without one
};

// One nonzero of Ce.
struct Term {
  uint32_t k, quad, m;  // quad: of T; m: within the quad
  int32_t value;
};

// Throws Error where constants do not fit together or are out of range.
void check_hybrid_constants(const HybridAttributes& attributes, const HybridConstants& constants);

// Nonzeros by output channel, then channel of X, then m. Their quads are numbered over all of X,
// used or not. Throws Error where symbols are malformed.
std::vector<Term> decode_terms(const HybridAttributes& attributes,
                               const HybridConstants& constants);

}  // namespace optc
