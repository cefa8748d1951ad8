#include "hybrid_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "hybrid_terms.h"

namespace optc {
namespace {

constexpr uint32_t kStretch = 64;  // output channels that stay together

uint8_t scalar(const Constant<uint8_t>& constant, const char* name) {
  require(constant.size() == 1, std::string(name) + " is not a scalar");
  return constant.data[0];
}

float positive(const Constant<float>& constant, const char* name) {
  require(constant.size() == 1, std::string(name) + " is not a scalar");
  require(std::isfinite(constant.data[0]) && constant.data[0] > 0,
          std::string(name) + " is not positive and finite");
  return constant.data[0];
}

// Renumbers the quads of the terms: those in use only, or for the dense form all.
void number_quads(std::vector<Term>& terms, const QuadLayout& layout, bool all,
                  HybridWeights& packed) {
  std::vector<uint32_t> number(size_t(layout.quads()), all);
  for (const Term& term : terms) number[term.quad] = 1;
  packed.quads.clear();
  for (size_t quad = 0; quad < number.size(); ++quad) {
    if (number[quad] == 0) continue;
    number[quad] = uint32_t(packed.quads.size());
    packed.quads.push_back(layout.at(int64_t(quad)));
  }
  for (Term& term : terms) term.quad = number[term.quad];
}

// Adds a term to the bytes of its pair.
void put(uint32_t& word, const Term& term) {
  word |= uint32_t(uint8_t(term.value)) << 8 * term.place;
}

// Where the terms of each output channel begin; the last entry is their end.
std::vector<size_t> begins(const std::vector<Term>& terms, int64_t K) {
  std::vector<size_t> begin(size_t(K) + 1, 0);
  for (const Term& term : terms) ++begin[term.k + 1];
  for (size_t k = 0; k < size_t(K); ++k) begin[k + 1] += begin[k];
  return begin;
}

// Output channels by their number of terms: loops of equal length that follow each other are
// foreseen by the processor. A stretch of channels stays together, because channels of small images
// share lines of the cache that threads would take from each other.
std::vector<uint32_t> by_length(const std::vector<size_t>& begin) {
  std::vector<uint32_t> order(begin.size() - 1);
  std::iota(order.begin(), order.end(), 0u);
  const auto key = [&](uint32_t k) {
    return std::make_tuple(k / kStretch, begin[k] - begin[k + 1]);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return key(a) < key(b); });
  return order;
}

void pack_pairs(const std::vector<Term>& terms, HybridWeights& packed) {
  std::vector<size_t> begin = begins(terms, packed.K);
  packed.order = by_length(begin);
  packed.begin.assign(1, 0);
  for (const uint32_t k : packed.order) {
    for (size_t i = begin[k]; i < begin[k + 1]; ++i) {
      if (i == begin[k] || terms[i].quad != terms[i - 1].quad) {
        packed.pairs.push_back({0, terms[i].quad});
      }
      put(packed.pairs.back().weight, terms[i]);
    }
    packed.begin.push_back(uint32_t(packed.pairs.size()));
  }
}

void pack_dense(const std::vector<Term>& terms, int64_t group, HybridWeights& packed) {
  packed.quads_per_group = packed.quads.size() / size_t(group);
  packed.dense.assign(size_t(packed.K) * packed.quads_per_group, 0);
  for (const Term& term : terms) {
    const size_t quad = term.quad % packed.quads_per_group;
    const size_t four = term.k / kDenseRows * packed.quads_per_group + quad;
    put(packed.dense[four * kDenseRows + term.k % kDenseRows], term);
  }
}

void pack_elements(const std::vector<Term>& terms, HybridWeights& packed) {
  const std::vector<size_t> begin = begins(terms, packed.K);
  packed.order = by_length(begin);
  packed.begin.assign(1, 0);
  for (const uint32_t k : packed.order) {
    for (size_t i = begin[k]; i < begin[k + 1]; ++i) {
      const Term& term = terms[i];
      const size_t place = (i - begin[k]) % kQuad;
      if (place == 0) packed.fours.push_back({});
      packed.fours.back().rows[place] = uint16_t(term.quad * kQuad + term.place);
      packed.fours.back().weight |= uint32_t(uint8_t(term.value)) << 8 * place;
    }
    packed.begin.push_back(uint32_t(packed.fours.size()));
  }
}

// Basis kernels as words of four taps of a kernel row, in quads; a single one fills its quad, for
// four channels. R begins with what the zero point takes off, and the rounding and the offset of T
// add.
void pack_basis(const HybridConstants& constants, const Geometry& geometry, int32_t offset,
                HybridWeights& packed) {
  const int64_t M = constants.basis.shape[0], quads = (M + kQuad - 1) / kQuad;
  const int64_t height = geometry.kernel[0], width = geometry.kernel[1];
  const int64_t words = (width + kQuad - 1) / kQuad, steps = height * words;
  packed.basis.assign(size_t(quads * steps * kQuad), 0);
  packed.start_of_r.assign(size_t(quads * kQuad), 0);
  packed.shift.assign(size_t(quads * kQuad), 0);
  const int64_t lanes = M == 1 ? kQuad : M;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t m = M == 1 ? 0 : lane;
    int64_t sum = 0, size = 0;
    for (int64_t t = 0; t < height * width; ++t) {
      const int8_t tap = constants.basis.data[m * height * width + t];
      require(tap >= -kMaxCoefficient, "basis holds -128");
      sum += tap, size += std::abs(tap);
      const int64_t s = t % width, step = t / width * words + s / kQuad;
      packed.basis[size_t((lane / kQuad * steps + step) * kQuad + lane % kQuad)] |=
          uint32_t(uint8_t(tap)) << 8 * (s % kQuad);
    }
    const int32_t shift = constants.shift.data[m], half = 1 << shift >> 1;
    const int64_t stored = int64_t(offset) * (1 << shift);
    require(size * 255 + half + std::abs(stored) <= std::numeric_limits<int32_t>::max(),
            "basis is too large for 32-bit sums");
    packed.start_of_r[size_t(lane)] = int32_t(half + stored - packed.x_zero * sum);
    packed.shift[size_t(lane)] = shift;
  }
}

// Whether there is one basis kernel, whose response is X less the zero point itself.
bool is_unit(const HybridConstants& constants, const Geometry& geometry) {
  return constants.basis.size() == 1 && geometry.kernel[0] * geometry.kernel[1] == 1 &&
         constants.basis.data[0] == 1 << constants.shift.data[0];
}

// Factors that end a sum, and the sum that undoes the offset of T: -offset * sum of Ce.
void pack_requantise(const HybridConstants& constants, const std::vector<Term>& terms,
                     int32_t offset, HybridWeights& packed) {
  const float y_scale = positive(constants.y.scale, "y_scale");
  packed.y_zero = scalar(constants.y.zero_point, "y_zero_point");
  packed.rho = 0, packed.residual_zero = 0;
  if (constants.residual.scale.data != nullptr) {
    packed.rho = positive(constants.residual.scale, "residual_scale") / y_scale;
    packed.residual_zero = scalar(constants.residual.zero_point, "residual_zero_point");
  }
  require(std::isfinite(packed.rho * 255), "residual_scale / y_scale is out of range");
  std::vector<int64_t> sum(size_t(packed.K), 0), size(size_t(packed.K), 0);
  for (const Term& term : terms) {
    sum[term.k] += term.value, size[term.k] += std::abs(term.value);
  }
  for (int64_t k = 0; k < packed.K; ++k) {
    // The kernels' partial sums may wrap, but not the sum.
    require(size[size_t(k)] * 256 <= std::numeric_limits<int32_t>::max(),
            "coefficients are too many for 32-bit sums");
    packed.start.push_back(int32_t(uint32_t(-offset * sum[size_t(k)])));
    packed.a.push_back(constants.scale.data[k] / y_scale);
    packed.b.push_back(constants.bias.data == nullptr ? 0.0f : constants.bias.data[k] / y_scale);
    require(std::isfinite(packed.a.back() * 2147483648.0f) && std::isfinite(packed.b.back()),
            "scale or bias is too large for y_scale");
  }
}

// What all forms have in common.
HybridWeights pack_common(const HybridAttributes& attributes, const HybridConstants& constants,
                          const std::vector<Term>& terms, int32_t offset) {
  const Attributes& conv = attributes.conv;
  const Geometry geometry = read_geometry(conv, constants.basis.shape);
  HybridWeights packed = {};
  packed.channels_of_quad = int(QuadLayout(conv).channels);
  packed.K = conv.coefficient_shape[0];
  packed.C = conv.coefficient_shape[1] * conv.group;
  packed.lower = uint8_t(attributes.lower), packed.upper = uint8_t(attributes.upper);
  positive(constants.x.scale, "x_scale");
  packed.x_zero = scalar(constants.x.zero_point, "x_zero_point");
  const int32_t stored = offset - int32_t(attributes.response_offset);  // T is stored plus this
  pack_basis(constants, geometry, stored, packed);
  packed.copies = is_unit(constants, geometry) && packed.x_zero + attributes.response_offset == 128;
  pack_requantise(constants, terms, stored, packed);
  return packed;
}

HybridWeights pack_form(HybridWeights packed, std::vector<Term> terms, const QuadLayout& layout,
                        Form form) {
  packed.form = form;
  number_quads(terms, layout, form == Form::kDense, packed);
  switch (form) {
    case Form::kPairs: pack_pairs(terms, packed); break;
    case Form::kDense: pack_dense(terms, layout.group, packed); break;
    case Form::kElements: pack_elements(terms, packed); break;
  }
  return packed;
}

}  // namespace

Requantise HybridWeights::requantise() const {
  return {start.data(), a.data(), b.data(), y_zero, residual_zero, rho, lower, upper};
}

HybridForms pack_hybrid_weights(const HybridAttributes& attributes,
                                const HybridConstants& constants, int32_t offset,
                                const Form* wanted) {
  check_hybrid_constants(attributes, constants);
  const QuadLayout layout(attributes.conv);
  std::vector<Term> terms = decode_terms(attributes, constants);
  const HybridWeights common = pack_common(attributes, constants, terms, offset);
  const Counts counts = {layout.quads(), common.K * layout.per_group()};
  const bool can = wanted != nullptr && can_have(*wanted, common.K, layout.group, counts);
  const auto choose = [&](bool narrow) {
    return can ? *wanted : fastest(terms, common.K, layout.group, counts, narrow);
  };
  const Form form = choose(false), of_narrow = choose(true);
  HybridForms forms = {};
  if (of_narrow != form) {
    forms.narrow =
        std::make_unique<const HybridWeights>(pack_form(common, terms, layout, of_narrow));
  }
  forms.wide = pack_form(common, std::move(terms), layout, form);
  return forms;
}

}  // namespace optc
