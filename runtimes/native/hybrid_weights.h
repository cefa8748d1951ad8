// Constants of a HybridDecomposedConv node, packed for the form of the second stage that is fastest
// for them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "hybrid_form.h"
#include "hybrid_kernels.h"
#include "hybrid_terms.h"

namespace optc {

// The factors as the kernels read them. Quads that no coefficient uses do not exist.
struct HybridWeights {
  int64_t K, C;
  Form form;
  std::vector<Quad> quads;           // by channel
  int channels_of_quad;
  bool copies;                       // see HybridResponseArgs
  std::vector<uint32_t> basis;       // (quads of basis kernels, steps, 4)
  std::vector<int32_t> start_of_r;   // (quads of basis kernels, 4)
  std::vector<int32_t> shift;        // (quads of basis kernels, 4)
  std::vector<uint32_t> order;       // (K,) output channels in the order of the following
  std::vector<PairWeight> pairs;     // as HybridRowArgs has them, by form
  std::vector<uint32_t> dense;
  std::vector<FourWeights> fours;
  std::vector<uint32_t> begin;
  size_t quads_per_group;            // of kDense
  std::vector<int32_t> start;        // (K,)
  std::vector<float> a, b;           // (K,)
  float rho;
  uint8_t x_zero, y_zero, residual_zero, lower, upper;

  Requantise requantise() const;
};

// The fastest form for tiles of several vectors, and for tiles of one; null: the same.
struct HybridForms {
  HybridWeights wide;
  std::unique_ptr<const HybridWeights> narrow;
};

// Throws Error where the constants are malformed. `offset`: of T in the kernels. All have the form
// that is `wanted`, for tests and measurements, where the weights can have it.
HybridForms pack_hybrid_weights(const HybridAttributes& attributes,
                                const HybridConstants& constants, int32_t offset,
                                const Form* wanted = nullptr);

}  // namespace optc
