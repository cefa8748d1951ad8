#include "compact_weights.h"

#include <algorithm>

namespace optc {
namespace {

constexpr double kLeastDensity = 1e-3;         // of what passes over T are planned for
constexpr uint32_t kBlockRows = 128;           // rows of T in a block, or those of one channel

struct Nonzero {
  uint32_t k, column;  // column: c * M + m, with c over all channels of X
  float value;
};

void check_values(const Attributes& attributes, const std::vector<int64_t>& values) {
  const std::vector<int64_t>& shape = attributes.coefficient_shape;
  require(values.size() == 2 && values[1] >= 1 && shape[0] * shape[1] * shape[2] % values[1] == 0,
          "values " + text(values) + ": blocks do not divide the coefficients");
}

// Nonzeros by output channel, then column.
std::vector<Nonzero> decode_coefficients(const Attributes& attributes,
                                         const Constants& constants) {
  const int64_t K = attributes.coefficient_shape[0], C = attributes.coefficient_shape[1];
  const int64_t M = attributes.coefficient_shape[2], block = constants.values.shape[1];
  const std::vector<int64_t> stored =
      decode_positions(constants.positions, attributes.position_bits, K * C * M / block);
  require(int64_t(stored.size()) == constants.values.shape[0],
          std::to_string(stored.size()) + " positions for " +
              std::to_string(constants.values.shape[0]) + " stored blocks");
  const int64_t k_group = K / attributes.group, row_size = C * M;
  std::vector<Nonzero> nonzeros;
  nonzeros.reserve(stored.size() * size_t(block));
  int64_t k = 0, k_end = row_size;  // flat coefficients of channel k end at k_end
  for (size_t i = 0; i < stored.size(); ++i) {
    for (int64_t j = 0; j < block; ++j) {
      const int64_t flat = stored[i] * block + j;
      for (; flat >= k_end; k_end += row_size) ++k;
      const float value = constants.values.data[int64_t(i) * block + j];
      const int64_t column = k / k_group * row_size + flat - (k_end - row_size);
      if (value != 0) nonzeros.push_back({uint32_t(k), uint32_t(column), value});
    }
  }
  return nonzeros;
}

// Numbers the columns (c, m) in use as rows of T; returns the number of each column.
std::vector<uint32_t> number_rows(const std::vector<Nonzero>& nonzeros, int64_t M,
                                  PackedWeights& packed) {
  std::vector<uint32_t> row(size_t(packed.C * M), 0);
  for (const Nonzero& nonzero : nonzeros) row[nonzero.column] = 1;
  for (int64_t c = 0; c < packed.C; ++c) {
    const uint32_t first = uint32_t(packed.row_basis.size());
    for (int64_t m = 0; m < M; ++m) {
      uint32_t& number = row[size_t(c * M + m)];
      if (number == 0) continue;
      number = uint32_t(packed.row_basis.size());
      packed.row_basis.push_back(uint32_t(m));
    }
    const uint32_t rows = uint32_t(packed.row_basis.size()) - first;
    if (rows > 0) packed.channels.push_back({uint32_t(c), first, rows});
  }
  return row;
}

// Cuts the channels into blocks; the last entry is their end. Without channels one empty block
// remains, which still writes the bias.
void cut_blocks(PackedWeights& packed) {
  packed.blocks.push_back({0, 0});
  for (size_t c = 0; c < packed.channels.size(); ++c) {
    const Channel& channel = packed.channels[c];
    const Block& open = packed.blocks.back();
    if (c > open.channel_begin && channel.first_row + channel.rows > open.first_row + kBlockRows) {
      packed.blocks.push_back({c, channel.first_row});
    }
  }
  packed.blocks.push_back({packed.channels.size(), uint32_t(packed.rows())});
}

// Nonzeros come sorted as the kernels want them; notes where each block of a channel begins.
void fill_coefficients(const std::vector<Nonzero>& nonzeros, const std::vector<uint32_t>& row,
                       PackedWeights& packed) {
  packed.coefficients.reserve(nonzeros.size());
  packed.block_begin.reserve(size_t(packed.K) * packed.blocks.size());
  size_t i = 0;
  for (int64_t k = 0; k < packed.K; ++k) {
    for (const Block& block : packed.blocks) {
      // The coefficients of k that lie before the block.
      for (; i < nonzeros.size() && nonzeros[i].k == k; ++i) {
        const uint32_t r = row[nonzeros[i].column];
        if (r >= block.first_row) break;
        packed.coefficients.push_back({nonzeros[i].value, r});
      }
      packed.block_begin.push_back(uint32_t(i));
    }
  }
}

}  // namespace

PackedWeights pack_weights(const Attributes& attributes, const Constants& constants) {
  check_shapes(attributes, constants.basis.shape, constants.bias, constants.positions);
  check_values(attributes, constants.values.shape);
  require_finite(constants.basis, "basis");
  require_finite(constants.values, "values");
  require_finite(constants.bias, "bias");
  PackedWeights packed;
  packed.K = attributes.coefficient_shape[0];
  packed.C = attributes.coefficient_shape[1] * attributes.group;
  packed.basis.assign(constants.basis.data, constants.basis.data + constants.basis.size());
  packed.bias.assign(size_t(packed.K), 0.0f);
  if (constants.bias.data != nullptr) {
    packed.bias.assign(constants.bias.data, constants.bias.data + packed.K);
  }
  const std::vector<Nonzero> nonzeros = decode_coefficients(attributes, constants);
  const std::vector<uint32_t> row =
      number_rows(nonzeros, attributes.coefficient_shape[2], packed);
  const double pairs = double(packed.K) * double(packed.rows()) / double(attributes.group);
  packed.density = std::max(double(nonzeros.size()) / std::max(pairs, 1.0), kLeastDensity);
  cut_blocks(packed);
  fill_coefficients(nonzeros, row, packed);
  return packed;
}

}  // namespace optc
