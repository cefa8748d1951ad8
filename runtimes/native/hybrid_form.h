// Which form the second stage of a hybrid convolution has.
#pragma once

#include <cstdint>
#include <vector>

#include "hybrid_terms.h"

namespace optc {

// How the second stage reads Ce; see hybrid_kernels.h.
enum class Form { kPairs, kDense, kElements };

// How many quads of T there are, and (output, quad) pairs, stored or not.
struct Counts {
  int64_t quads, pairs;
};

// Whether the weights can have a form: the dense one wants output channels in fours, that of
// elements numbers rows of T in 16 bits.
bool can_have(Form form, int64_t K, int64_t group, const Counts& counts);

// For tiles of one vector (`narrow`) or of several.
Form fastest(const std::vector<Term>& terms, int64_t K, int64_t group, const Counts& counts,
             bool narrow);

}  // namespace optc
