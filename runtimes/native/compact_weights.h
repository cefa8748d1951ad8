// Constants of a DecomposedConv node: read from the file's compact form, checked, and packed.
//
// Everything here comes from a file and is not trusted: whatever does not fit together is an
// Error, before anything is indexed with it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "image_plan.h"
#include "kernels.h"

namespace optc {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Attributes of the node, as stored.
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

struct Constants {
  Constant<float> basis;        // (M, *kernel)
  Constant<float> values;       // (n_stored, block)
  Constant<uint8_t> positions;  // (n_bytes,)
  Constant<float> bias;         // (K,) or absent
};

// Some channels that follow each other: the least that is computed at a time.
struct Block {
  size_t channel_begin;  // of PackedWeights::channels
  uint32_t first_row;    // of T
};

// The factors as the kernels read them. Rows of T that no coefficient uses do not exist.
struct PackedWeights {
  int64_t K, C;
  double density;                         // share of T's rows that an output channel uses
  std::vector<float> basis;               // (M, taps)
  std::vector<float> bias;                // (K,)
  std::vector<Channel> channels;          // that any coefficient uses
  std::vector<uint32_t> row_basis;        // (rows of T,) m of each row
  std::vector<Coefficient> coefficients;  // by output channel, then row
  std::vector<Block> blocks;              // one more than there are, for the end
  std::vector<uint32_t> block_begin;      // (K, blocks) of `coefficients`, as cut by the blocks

  size_t rows() const { return row_basis.size(); }
};

// Throws Error where the attributes do not fit the kernel's shape.
Geometry read_geometry(const Attributes& attributes, const std::vector<int64_t>& basis_shape);

// Throws Error where the constants are malformed.
PackedWeights pack_weights(const Attributes& attributes, const Constants& constants);

}  // namespace optc
