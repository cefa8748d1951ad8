// Constants of a DecomposedConv node: read from the file's compact form, checked, and packed.
#pragma once

#include <cstdint>
#include <vector>

#include "constants.h"
#include "kernels.h"

namespace optc {

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

// Throws Error where the constants are malformed.
PackedWeights pack_weights(const Attributes& attributes, const Constants& constants);

}  // namespace optc
