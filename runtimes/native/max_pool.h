// The largest of each window of uint8 pixels, channel by channel.
#pragma once

#include <cstdint>
#include <vector>

#include "image_plan.h"
#include "thread_pool.h"

namespace optc {

// Attributes of a node, as stored.
struct MaxPoolAttributes {
  std::vector<int64_t> kernel_shape;              // (n,)
  std::vector<int64_t> strides, pads, dilations;  // (n,), (2n,), (n,)
  int64_t ceil_mode = 0;
};

class MaxPool {
 public:
  // Throws Error where the attributes are malformed.
  explicit MaxPool(const MaxPoolAttributes& attributes);

  // Shape of Y for X of shape (N, C, *spatial); throws Error where they do not fit.
  std::vector<int64_t> output_shape(const std::vector<int64_t>& x_shape) const;

  // Padding never wins; a window of nothing else gives 0. Any number of threads may call it at
  // once. Throws std::bad_alloc where there is no memory.
  void run(const uint8_t* x, const std::vector<int64_t>& x_shape, uint8_t* y,
           ThreadPool& pool) const;

 private:
  Geometry geometry_;
  bool ceil_;
};

}  // namespace optc
