#include "hybrid_terms.h"

#include <cmath>
#include <cstdlib>
#include <string>

namespace optc {
namespace {

constexpr int kMaxShift = 22;

void require_vector(const std::vector<int64_t>& shape, int64_t size, const char* name) {
  require(shape == std::vector<int64_t>{size},
          std::string(name) + " " + text(shape) + " is not (" + std::to_string(size) + ")");
}

// Symbol i of the packed stream: two's complement of 8 or 4 bits, or a sign.
int32_t symbol_at(const uint8_t* bytes, int64_t bits, int64_t i) {
  if (bits == 8) return int8_t(bytes[i]);
  if (bits == 4) return int8_t(bytes[i / 2] << (i % 2 ? 0 : 4)) >> 4;
  return bytes[i / 8] >> (i % 8) & 1 ? -1 : 1;
}

}  // namespace

QuadLayout::QuadLayout(const Attributes& conv)
    : group(conv.group), C(conv.coefficient_shape[1]),
      of_channel((conv.coefficient_shape[2] + kQuad - 1) / kQuad),
      channels(conv.coefficient_shape[2] == 1 ? kQuad : 1) {}

void check_hybrid_constants(const HybridAttributes& attributes,
                            const HybridConstants& constants) {
  check_shapes(attributes.conv, constants.basis.shape, constants.bias, constants.positions);
  const std::vector<int64_t>& shape = attributes.conv.coefficient_shape;
  const int64_t K = shape[0], M = shape[2];
  require_vector(constants.shift.shape, M, "shift");
  require_vector(constants.scale.shape, K, "scale");
  require(constants.levels.shape == std::vector<int64_t>{K, M},
          "levels " + text(constants.levels.shape) + " are not (K, M)");
  const int64_t block = attributes.block, of_output = shape[1] * M;
  require(block == 1 || block == M || block == of_output,
          "block is " + std::to_string(block) + ", expected 1, " + std::to_string(M) + " or " +
              std::to_string(of_output));
  const int64_t bits = attributes.value_bits;
  require(bits == 1 || bits == 4 || bits == 8,
          "value_bits is " + std::to_string(bits) + ", expected 1, 4 or 8");
  require(constants.values.shape.size() == 1, "values are not a vector");
  require(0 <= attributes.lower && attributes.lower <= attributes.upper && attributes.upper <= 255,
          "lower and upper are not 0 <= lower <= upper <= 255");
  require(-128 <= attributes.response_offset && attributes.response_offset <= 128,
          "offset is " + std::to_string(attributes.response_offset) + ", expected -128 to 128");
  require_finite(constants.scale, "scale");
  require_finite(constants.bias, "bias");
  for (int64_t k = 0; k < K; ++k) require(constants.scale.data[k] > 0, "scale is not positive");
  for (int64_t i = 0; i < K * M; ++i) require(constants.levels.data[i] >= 1, "a level is below 1");
  for (int64_t m = 0; m < M; ++m) {
    require(constants.shift.data[m] <= kMaxShift,
            "shift is above " + std::to_string(kMaxShift));
  }
}

std::vector<Term> decode_terms(const HybridAttributes& attributes,
                               const HybridConstants& constants) {
  const std::vector<int64_t>& shape = attributes.conv.coefficient_shape;
  const int64_t K = shape[0], C = shape[1], M = shape[2], block = attributes.block;
  const std::vector<int64_t> stored =
      decode_positions(constants.positions, attributes.conv.position_bits, K * C * M / block);
  const int64_t count = int64_t(stored.size()) * block, bits = attributes.value_bits;
  require(constants.values.size() == (count * bits + 7) / 8,
          std::to_string(constants.values.size()) + " bytes for " + std::to_string(count) +
              " values of " + std::to_string(bits) + " bits");
  const int64_t k_group = K / attributes.conv.group;
  const QuadLayout layout(attributes.conv);
  std::vector<Term> terms;
  terms.reserve(size_t(count));
  for (int64_t i = 0; i < count; ++i) {
    const int32_t symbol = symbol_at(constants.values.data, bits, i);
    if (symbol == 0) continue;
    const int64_t flat = stored[size_t(i / block)] * block + i % block;
    const int64_t k = flat / (C * M), c = flat / M % C, m = flat % M;
    const Term term = {uint32_t(k), uint32_t(layout.quad(k / k_group, c, m)),
                       uint32_t(layout.place(c, m)), symbol * constants.levels.data[k * M + m]};
    if (std::abs(term.value) > kMaxCoefficient) {
      throw Error("levels * values " + std::to_string(term.value) + " is out of range");
    }
    terms.push_back(term);
  }
  return terms;
}

}  // namespace optc
