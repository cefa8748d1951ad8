// Constants of a HybridDecomposedConv node as the file has them: checked, and its symbols decoded.
#pragma once

#include <cstdint>
#include <vector>

#include "constants.h"
#include "hybrid_kernels.h"

namespace optc {

constexpr int kMaxCoefficient = 127;  // of |Ce| and |B|

struct HybridAttributes {
  Attributes conv;
  int64_t value_bits = 8, block = 1, lower = 0, upper = 255, response_offset = 0;
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

// Which responses are together in a quad of T: those of four basis kernels to one channel or, of
// the only basis kernel, to four channels.
struct QuadLayout {
  int64_t group, C;    // C: of a group
  int64_t of_channel;  // quads
  int64_t channels;    // of a quad

  explicit QuadLayout(const Attributes& conv);

  int64_t per_group() const { return (C + channels - 1) / channels * of_channel; }
  int64_t quads() const { return group * per_group(); }
  int64_t quad(int64_t g, int64_t c, int64_t m) const {
    return g * per_group() + c / channels * of_channel + m / kQuad;
  }
  int64_t place(int64_t c, int64_t m) const { return channels > 1 ? c % channels : m % kQuad; }
  Quad at(int64_t quad) const {
    const int64_t in_group = quad % per_group();
    const int64_t c = quad / per_group() * C + in_group / of_channel * channels;
    return {uint32_t(c), uint32_t(in_group % of_channel)};
  }
};

// One nonzero of Ce.
struct Term {
  uint32_t k, quad, place;  // place: within the quad of T
  int32_t value;
};

// Throws Error where constants do not fit together or are out of range.
void check_hybrid_constants(const HybridAttributes& attributes, const HybridConstants& constants);

// Nonzeros by output channel, then channel of X, then m. Their quads are numbered over all of X,
// used or not. Throws Error where symbols are malformed.
std::vector<Term> decode_terms(const HybridAttributes& attributes,
                               const HybridConstants& constants);

}  // namespace optc
