#include "constants.h"

#include <cmath>
#include <limits>

namespace optc {
namespace {

constexpr int64_t kMaxAttribute = 1 << 20;     // of strides, pads, dilations, kernel sizes
constexpr int64_t kMaxCoefficients = 1 << 28;  // stored or not
constexpr int64_t kMaxPlane = std::numeric_limits<int32_t>::max();  // pixels of one channel

}  // namespace

void require(bool condition, const std::string& message) {
  if (!condition) throw Error(message);
}

void require_in_range(const std::vector<int64_t>& values, int64_t lowest, const char* name) {
  for (const int64_t value : values) {
    require(value >= lowest && value <= kMaxAttribute,
            std::string(name) + " " + text(values) + " is out of range");
  }
}

std::string text(const std::vector<int64_t>& shape) {
  std::string joined;
  for (const int64_t dim : shape) joined += (joined.empty() ? "" : ", ") + std::to_string(dim);
  return "(" + joined + ")";
}

void require_finite(const Constant<float>& constant, const char* name) {
  for (int64_t i = 0; i < constant.size(); ++i) {
    if (!std::isfinite(constant.data[i])) throw Error(std::string(name) + " holds NaN or infinity");
  }
}

void check_shapes(const Attributes& attributes, const std::vector<int64_t>& basis_shape,
                  const Constant<float>& bias, const Constant<uint8_t>& positions) {
  const std::vector<int64_t>& shape = attributes.coefficient_shape;
  require(shape.size() == 3, "coefficient_shape " + text(shape) + " is not (K, C/group, M)");
  int64_t size = 1;
  for (const int64_t dim : shape) {
    require(dim >= 1 && dim <= kMaxCoefficients && size <= kMaxCoefficients / dim,
            "coefficient_shape " + text(shape) + " is out of range");
    size *= dim;
  }
  require(attributes.group >= 1 && shape[0] % attributes.group == 0,
          "group " + std::to_string(attributes.group) + " does not divide " +
              std::to_string(shape[0]) + " output channels");
  require(!basis_shape.empty() && basis_shape[0] == shape[2],
          "basis " + text(basis_shape) + " does not have the " +
              std::to_string(shape[2]) + " kernels of coefficient_shape");
  require(bias.data == nullptr || bias.shape == std::vector<int64_t>{shape[0]},
          "bias " + text(bias.shape) + " is not (K,)");
  require(positions.shape.size() == 1, "positions are not a vector");
  require(attributes.position_bits >= 1 && attributes.position_bits <= 16,
          "position_bits is " + std::to_string(attributes.position_bits) + ", expected 1 to 16");
}

Geometry read_geometry(const Attributes& attributes, const std::vector<int64_t>& basis_shape) {
  const size_t rank = basis_shape.empty() ? 0 : basis_shape.size() - 1;
  require(rank == 1 || rank == 2,
          "basis " + text(basis_shape) + " is not (M, *kernel) of one or two axes");
  require(attributes.strides.size() == rank && attributes.dilations.size() == rank &&
              attributes.pads.size() == 2 * rank,
          "strides, pads or dilations do not have the kernel's " + std::to_string(rank) + " axes");
  require_in_range(basis_shape, 1, "basis");
  require_in_range(attributes.strides, 1, "strides");
  require_in_range(attributes.pads, 0, "pads");
  require_in_range(attributes.dilations, 1, "dilations");
  Geometry geometry = {int64_t(rank), {1, 1}, {1, 1}, {0, 0}, {0, 0}, {1, 1}};
  for (size_t axis = 0; axis < rank; ++axis) {
    const size_t to = axis + 2 - rank;
    geometry.kernel[to] = basis_shape[axis + 1];
    geometry.stride[to] = attributes.strides[axis];
    geometry.pad_begin[to] = attributes.pads[axis];
    geometry.pad_end[to] = attributes.pads[axis + rank];
    geometry.dilation[to] = attributes.dilations[axis];
  }
  return geometry;
}

std::vector<int64_t> output_shape(const Geometry& geometry, int64_t C, int64_t K,
                                  const std::vector<int64_t>& x_shape) {
  if (int64_t(x_shape.size()) != geometry.rank + 2 || x_shape[1] != C) {
    throw Error("X has " + std::to_string(x_shape.size()) + " axes and " +
                std::to_string(x_shape.size() > 1 ? x_shape[1] : 0) + " channels, expected " +
                std::to_string(geometry.rank + 2) + " and " + std::to_string(C));
  }
  std::vector<int64_t> shape = {x_shape[0], K};
  int64_t input_left = kMaxPlane, output_left = kMaxPlane;
  for (int64_t axis = 0; axis < geometry.rank; ++axis) {
    const int64_t size = x_shape[size_t(axis + 2)];
    if (size < 1 || size > input_left) throw Error("the image is empty or too large");
    const int64_t out = geometry.output_size(int(axis + 2 - geometry.rank), size);
    if (out < 1) throw Error("the kernel is larger than the padded image");
    if (out > output_left) throw Error("the output is too large");
    input_left /= size;
    output_left /= out;
    shape.push_back(out);
  }
  return shape;
}

std::vector<int64_t> decode_positions(const Constant<uint8_t>& code, int64_t width,
                                      int64_t n_blocks) {
  const uint32_t escape = (1u << width) - 1;
  std::vector<int64_t> stored;
  uint32_t buffer = 0;
  int64_t bits = 0, next = 0;
  for (int64_t i = 0; i < code.size(); ++i) {
    buffer |= uint32_t(code.data[i]) << bits;
    for (bits += 8; bits >= width; bits -= width, buffer >>= width) {
      const uint32_t symbol = buffer & escape;
      next += symbol;
      if (symbol == escape) continue;
      if (next >= n_blocks) {
        throw Error("position " + std::to_string(next) + " lies outside " +
                    std::to_string(n_blocks) + " blocks");
      }
      stored.push_back(next++);
    }
  }
  return stored;
}

}  // namespace optc
