#include "compact_weights.h"

#include <algorithm>
#include <cmath>

namespace optc {
namespace {

constexpr int64_t kMaxAttribute = 1 << 20;     // of strides, pads, dilations, kernel sizes
constexpr int64_t kMaxCoefficients = 1 << 28;  // stored or not
constexpr double kLeastDensity = 1e-3;         // of what passes over T are planned for
constexpr uint32_t kBlockRows = 128;           // rows of T in a block, or those of one channel

struct Nonzero {
  uint32_t k, column;  // column: c * M + m, with c over all channels of X
  float value;
};

void require(bool condition, const std::string& message) {
  if (!condition) throw Error(message);
}

std::string text(const std::vector<int64_t>& shape) {
  std::string joined;
  for (const int64_t dim : shape) joined += (joined.empty() ? "" : ", ") + std::to_string(dim);
  return "(" + joined + ")";
}

void require_in_range(const std::vector<int64_t>& values, int64_t lowest, const char* name) {
  for (const int64_t value : values) {
    require(value >= lowest && value <= kMaxAttribute,
            std::string(name) + " " + text(values) + " is out of range");
  }
}

void require_finite(const Constant<float>& constant, const char* name) {
  for (int64_t i = 0; i < constant.size(); ++i) {
    if (!std::isfinite(constant.data[i])) throw Error(std::string(name) + " holds NaN or infinity");
  }
}

void check_shapes(const Attributes& attributes, const Constants& constants) {
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
  require(constants.basis.shape[0] == shape[2],
          "basis " + text(constants.basis.shape) + " does not have the " +
              std::to_string(shape[2]) + " kernels of coefficient_shape");
  require(constants.bias.data == nullptr ||
              constants.bias.shape == std::vector<int64_t>{shape[0]},
          "bias " + text(constants.bias.shape) + " is not (K,)");
  const std::vector<int64_t>& values = constants.values.shape;
  require(values.size() == 2 && values[1] >= 1 && size % values[1] == 0,
          "values " + text(values) + ": blocks do not divide the coefficients");
  require(constants.positions.shape.size() == 1, "positions are not a vector");
  require(attributes.position_bits >= 1 && attributes.position_bits <= 16,
          "position_bits is " + std::to_string(attributes.position_bits) + ", expected 1 to 16");
}

// Indices of the stored blocks, ascending. A symbol s below the escape skips s blocks and stores
// one; the escape 2^width - 1 skips as many as its number and stores none. Least significant bit
// first.
std::vector<int64_t> decode_positions(const Constant<uint8_t>& code, int64_t width,
                                      int64_t n_blocks, int64_t n_stored) {
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
  require(int64_t(stored.size()) == n_stored,
          std::to_string(stored.size()) + " positions for " + std::to_string(n_stored) +
              " stored blocks");
  return stored;
}

// Nonzeros by output channel, then column.
std::vector<Nonzero> decode_coefficients(const Attributes& attributes,
                                         const Constants& constants) {
  const int64_t K = attributes.coefficient_shape[0], C = attributes.coefficient_shape[1];
  const int64_t M = attributes.coefficient_shape[2], block = constants.values.shape[1];
  const std::vector<int64_t> stored =
      decode_positions(constants.positions, attributes.position_bits, K * C * M / block,
                       constants.values.shape[0]);
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

Geometry read_geometry(const Attributes& attributes, const std::vector<int64_t>& basis_shape) {
  const size_t rank = basis_shape.size() - 1;
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

PackedWeights pack_weights(const Attributes& attributes, const Constants& constants) {
  check_shapes(attributes, constants);
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
