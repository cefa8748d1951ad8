// Hybrid decomposed convolution over whole tensors: cuts the output into tiles and runs the
// kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hybrid_kernels.h"
#include "hybrid_plan.h"
#include "hybrid_weights.h"
#include "plan_cache.h"
#include "sharing.h"
#include "thread_pool.h"

namespace optc {

class HybridConv {
 public:
  // Throws Error where the model is malformed. `form`: see pack_hybrid_weights.
  HybridConv(const HybridAttributes& attributes, const HybridConstants& constants,
             const HybridKernels& kernels, const Form* form = nullptr);

  // Shape of Y for X of shape (N, C, *spatial); throws Error where they do not fit.
  std::vector<int64_t> output_shape(const std::vector<int64_t>& x_shape) const;

  // See hybrid_kernels.h; `residual` (like Y) may be null. Any number of threads may call it at
  // once.
  void run(const uint8_t* x, const std::vector<int64_t>& x_shape, const uint8_t* residual,
           uint8_t* y, ThreadPool& pool) const;

  Form form() const { return weights_.wide.form; }

 private:
  struct Run;

  Geometry geometry_;
  HybridForms weights_;
  int64_t group_;
  const HybridKernels& kernels_;
  mutable PlanCache<HybridPlan> plans_;
  mutable Sharing sharing_;
};

}  // namespace optc
