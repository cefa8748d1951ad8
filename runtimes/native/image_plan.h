// Where the pixels of each vector of output pixels lie in the input image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace optc {

// A convolution over two spatial axes; one axis is two with a height of 1.
struct Geometry {
  int64_t rank;  // spatial axes of the model's tensors: 1 or 2
  int64_t kernel[2], stride[2], pad_begin[2], pad_end[2], dilation[2];

  // Size of the output along one axis, 0 where the kernel does not fit.
  int64_t output_size(int axis, int64_t size) const;
};

// What depends on the size of the image but not on its content. Padding is never stored: a tap
// outside the image is a lane that the mask leaves out.
struct ImagePlan {
  int64_t size[2], output[2];             // height and width of X and Y
  int64_t vectors;                        // of one sample
  std::vector<ptrdiff_t> tap_offset;      // (taps,)
  std::vector<uint16_t> mask;             // (vectors, taps)
  std::vector<ptrdiff_t> vector_input;    // (vectors,)
  Lanes lanes;
  std::vector<int32_t> lane_offset;       // (vectors, lanes); empty for kNeighbours
};

// Throws std::bad_alloc where there is no memory.
ImagePlan make_plan(const Geometry& geometry, int64_t height, int64_t width, int lanes);

}  // namespace optc
