// Decomposed convolution over whole tensors: cuts the output into tiles and runs the kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "compact_weights.h"
#include "image_plan.h"
#include "kernels.h"
#include "plan_cache.h"
#include "thread_pool.h"

namespace optc {

class DecomposedConv {
 public:
  // Throws Error where the model is malformed.
  DecomposedConv(const Attributes& attributes, const Constants& constants, const Kernels& kernels);

  // Shape of Y for X of shape (N, C, *spatial); throws Error where they do not fit.
  std::vector<int64_t> output_shape(const std::vector<int64_t>& x_shape) const;

  // Y = act(X * W + bias + residual); `residual` (like Y) may be null. Any number of threads may
  // call it at once.
  void run(const float* x, const std::vector<int64_t>& x_shape, const float* residual, float* y,
           ThreadPool& pool) const;

 private:
  struct Run;

  Geometry geometry_;
  PackedWeights weights_;
  const Kernels& kernels_;
  bool clamp_;
  float lower_, upper_;
  mutable PlanCache<ImagePlan> plans_;
};

}  // namespace optc
