#include "image_plan.h"

#include <algorithm>

namespace optc {
namespace {

// Bit l of the result: tap (r, s) of the l-th pixel from `first` lies in the image.
uint16_t tap_mask(const Geometry& g, const ImagePlan& plan, int64_t first, int64_t pixels,
                  int64_t r, int64_t s) {
  unsigned mask = 0;
  for (int64_t l = 0; l < pixels; ++l) {
    const int64_t p = first + l;
    const int64_t row = p / plan.output[1] * g.stride[0] + r * g.dilation[0] - g.pad_begin[0];
    const int64_t column = p % plan.output[1] * g.stride[1] + s * g.dilation[1] - g.pad_begin[1];
    const bool inside = row >= 0 && row < plan.size[0] && column >= 0 && column < plan.size[1];
    mask |= unsigned(inside) << l;
  }
  return uint16_t(mask);
}

// Position in a channel of X of the first tap of output pixel p, as if there were no padding.
int64_t input_position(const Geometry& g, const ImagePlan& plan, int64_t p) {
  const int64_t row = p / plan.output[1], column = p % plan.output[1];
  return row * g.stride[0] * plan.size[1] + column * g.stride[1];
}

// Appends the offsets of the lanes of a vector; false where they are not every second position.
bool append_lanes(const Geometry& g, int64_t first, int lanes, ImagePlan& plan) {
  const auto offset = [&](int64_t lane) {
    return int32_t(input_position(g, plan, first + lane) - input_position(g, plan, first));
  };
  bool every_second = true;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t in_half = lane % (lanes / 2);
    plan.lane_offset.push_back(offset(lane));
    every_second &= offset(lane) == offset(lane - in_half) + 2 * in_half;
  }
  return every_second;
}

}  // namespace

int64_t Geometry::output_size(int axis, int64_t size) const {
  const int64_t padded = size + pad_begin[axis] + pad_end[axis];
  const int64_t covered = dilation[axis] * (kernel[axis] - 1) + 1;
  return padded < covered ? 0 : (padded - covered) / stride[axis] + 1;
}

ImagePlan make_plan(const Geometry& g, int64_t height, int64_t width, int lanes) {
  ImagePlan plan = {};
  plan.size[0] = height, plan.size[1] = width;
  for (int axis = 0; axis < 2; ++axis) plan.output[axis] = g.output_size(axis, plan.size[axis]);
  const int64_t pixels = plan.output[0] * plan.output[1];
  plan.vectors = (pixels + lanes - 1) / lanes;
  const bool neighbours = g.stride[0] == 1 && g.stride[1] == 1 && plan.output[1] == width;
  plan.lanes = neighbours ? kNeighbours : kEverySecond;
  for (int64_t v = 0; v < plan.vectors; ++v) {
    const int64_t first = v * lanes;
    plan.vector_input.push_back(input_position(g, plan, first));
    if (!neighbours && !append_lanes(g, first, lanes, plan)) plan.lanes = kScattered;
  }
  plan.mask.reserve(size_t(plan.vectors * g.kernel[0] * g.kernel[1]));
  for (int64_t first = 0; first < pixels; first += lanes) {
    const int64_t count = std::min<int64_t>(lanes, pixels - first);
    for (int64_t r = 0; r < g.kernel[0]; ++r) {
      for (int64_t s = 0; s < g.kernel[1]; ++s) {
        plan.mask.push_back(tap_mask(g, plan, first, count, r, s));
      }
    }
  }
  for (int64_t r = 0; r < g.kernel[0]; ++r) {
    for (int64_t s = 0; s < g.kernel[1]; ++s) {
      plan.tap_offset.push_back((r * g.dilation[0] - g.pad_begin[0]) * width +
                                s * g.dilation[1] - g.pad_begin[1]);
    }
  }
  return plan;
}

}  // namespace optc
