// Constants of a node as the file has them, and the checks that all kernels share.
//
// Nothing here is trusted: whatever does not fit together is an Error, before anything is indexed
// with it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "image_plan.h"

namespace optc {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Attributes of a node, as stored.
struct Attributes {
  std::vector<int64_t> strides, pads, dilations;  // (n,), (2n,), (n,)
  std::vector<int64_t> coefficient_shape;         // K, C/group, M
  int64_t group = 1;
  int64_t position_bits = 0;
  bool clamp = false;  // Relu or Clip
  float lower = 0, upper = 0;
};

// A constant input: its data and shape. No data: the input is absent.
template <typename T>
struct Constant {
  const T* data = nullptr;
  std::vector<int64_t> shape;

  int64_t size() const {
    int64_t product = data == nullptr ? 0 : 1;
    for (const int64_t dim : shape) product *= dim;
    return product;
  }
};

// Throws Error with the message unless the condition holds.
void require(bool condition, const std::string& message);
inline void require(bool condition, const char* message) {  // makes no string where all is well
  if (!condition) throw Error(message);
}

// Throws Error unless the values of an attribute lie between the lowest and 2^20.
void require_in_range(const std::vector<int64_t>& values, int64_t lowest, const char* name);

// "(2, 3)"
std::string text(const std::vector<int64_t>& shape);

// Throws Error where the constant holds NaN or infinity.
void require_finite(const Constant<float>& constant, const char* name);

// Throws Error where coefficient_shape, group, basis, bias and positions do not fit together.
void check_shapes(const Attributes& attributes, const std::vector<int64_t>& basis_shape,
                  const Constant<float>& bias, const Constant<uint8_t>& positions);

// Throws Error where the attributes do not fit the kernel's shape.
Geometry read_geometry(const Attributes& attributes, const std::vector<int64_t>& basis_shape);

// Shape of Y for X of shape (N, C, *spatial); throws Error where they do not fit.
std::vector<int64_t> output_shape(const Geometry& geometry, int64_t C, int64_t K,
                                  const std::vector<int64_t>& x_shape);

// Indices of the stored blocks, ascending; throws Error where one lies outside. A symbol s below
// the escape skips s blocks and stores one; the escape 2^width - 1 skips as many as its number and
// stores none. Least significant bit first.
std::vector<int64_t> decode_positions(const Constant<uint8_t>& code, int64_t width,
                                      int64_t n_blocks);

}  // namespace optc
