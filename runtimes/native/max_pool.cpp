#include "max_pool.h"

#include <algorithm>
#include <cstring>

#include "constants.h"

namespace optc {
namespace {

constexpr int64_t kAlone = 1 << 18;  // bytes of X that are not worth a second thread
constexpr int64_t kPiece = 1 << 16;  // bytes of X that a thread takes at a time
constexpr int64_t kMostPieces = 64;
constexpr int64_t kLine = 64;  // bytes that two threads must not share

using Rows = void (*)(const uint8_t* x, uint8_t* y, int64_t rows);

uint8_t larger(uint8_t a, uint8_t b) { return a > b ? a : b; }

// Windows of 2×2 side by side. The width is constant, or short rows would not be vectorised.
template <int64_t width>
void halve(const uint8_t* __restrict__ x, uint8_t* __restrict__ y, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t *upper = x + row * 2 * width, *lower = upper + width;
    for (int64_t j = 0; j < width / 2; ++j) {
      y[row * (width / 2) + j] =
          larger(larger(upper[2 * j], upper[2 * j + 1]), larger(lower[2 * j], lower[2 * j + 1]));
    }
  }
}

Rows halve_of(int64_t width) {
  switch (width) {
    case 2: return halve<2>;
    case 4: return halve<4>;
    case 8: return halve<8>;
    case 16: return halve<16>;
    case 32: return halve<32>;
    default: return nullptr;
  }
}

void join(const uint8_t* a, const uint8_t* b, uint8_t* __restrict__ y, int64_t size) {
  for (int64_t j = 0; j < size; ++j) y[j] = larger(a[j], b[j]);
}

void add(const uint8_t* __restrict__ x, int64_t step, uint8_t* __restrict__ y, int64_t size) {
  for (int64_t j = 0; j < size; ++j) y[j] = larger(y[j], x[j * step]);
}

// Neighbours in a row, every second window of them.
template <int64_t kernel>
void every_second(const uint8_t* __restrict__ row, uint8_t* __restrict__ y, int64_t size) {
  for (int64_t j = 0; j < size; ++j) {
    uint8_t most = row[2 * j];
    for (int64_t s = 1; s < kernel; ++s) most = larger(most, row[2 * j + s]);
    y[j] = most;
  }
}

// One call, in pieces of whole planes. A row of maxima down the columns has zeros at its ends: 0 is
// the least number, so that padding never wins.
struct Run {
  const Geometry& g;
  int64_t height, width, out_height, out_width;
  const uint8_t* x;
  uint8_t* y;
  int64_t planes, pieces, row_bytes;
  Rows halved;                // null: windows are not 2×2 side by side, or rows are long
  std::vector<uint8_t> rows;  // (pieces, row_bytes)

  void piece(int64_t i) {
    const int64_t begin = planes * i / pieces, end = planes * (i + 1) / pieces;
    const int64_t size = height * width, out_size = out_height * out_width;
    if (halved) return halved(x + begin * size, y + begin * out_size, (end - begin) * out_height);
    uint8_t* row = rows.data() + i * row_bytes;
    for (int64_t p = begin; p < end; ++p) {
      const uint8_t* plane = x + p * size;
      uint8_t* out = y + p * out_size;
      for (int64_t j = 0; j < out_height; ++j) {
        down(plane, j * g.stride[0] - g.pad_begin[0], row + g.pad_begin[1]);
        across(row, out + j * out_width);
      }
    }
  }

  // Maxima down the columns of a window whose first row is `top`.
  void down(const uint8_t* plane, int64_t top, uint8_t* row) const {
    const int64_t step = g.dilation[0];
    const int64_t first = top < 0 ? (step - 1 - top) / step : 0;
    const int64_t end = std::min(g.kernel[0], (height - top + step - 1) / step);
    const auto line = [&](int64_t r) { return plane + (top + r * step) * width; };
    const auto bytes = size_t(width);
    if (first >= end) {
      std::memset(row, 0, bytes);
    } else if (first + 1 == end) {
      std::memcpy(row, line(first), bytes);
    } else {
      join(line(first), line(first + 1), row, width);
      for (int64_t r = first + 2; r < end; ++r) add(line(r), 1, row, width);
    }
  }

  void across(const uint8_t* row, uint8_t* out) const {
    const bool second = g.stride[1] == 2 && g.dilation[1] == 1;
    if (second && g.kernel[1] == 2) return every_second<2>(row, out, out_width);
    if (second && g.kernel[1] == 3) return every_second<3>(row, out, out_width);
    std::memset(out, 0, size_t(out_width));
    for (int64_t s = 0; s < g.kernel[1]; ++s) {
      const uint8_t* tap = row + s * g.dilation[1];
      g.stride[1] == 1 ? add(tap, 1, out, out_width) : add(tap, g.stride[1], out, out_width);
    }
  }
};

// Whether windows of 2×2 cover the image without overlap or rest.
bool is_halving(const Geometry& g, const Run& run) {
  for (int axis = 0; axis < 2; ++axis) {
    if (g.kernel[axis] != 2 || g.stride[axis] != 2 || g.dilation[axis] != 1) return false;
    if (g.pad_begin[axis] != 0) return false;
  }
  return run.height == 2 * run.out_height && run.width == 2 * run.out_width;
}

}  // namespace

MaxPool::MaxPool(const MaxPoolAttributes& attributes) : ceil_(attributes.ceil_mode != 0) {
  const std::vector<int64_t>& kernel = attributes.kernel_shape;
  require(kernel.size() == 1 || kernel.size() == 2,
          "kernel_shape " + text(kernel) + " does not have one or two axes");
  require_in_range(kernel, 1, "kernel_shape");
  Attributes sliding;
  sliding.strides = attributes.strides;
  sliding.pads = attributes.pads;
  sliding.dilations = attributes.dilations;
  std::vector<int64_t> window = {1};
  window.insert(window.end(), kernel.begin(), kernel.end());
  geometry_ = read_geometry(sliding, window);
  for (int axis = 0; axis < 2; ++axis) {
    require(std::max(geometry_.pad_begin[axis], geometry_.pad_end[axis]) < geometry_.kernel[axis],
            "pads " + text(attributes.pads) + " are not below kernel_shape " + text(kernel));
  }
  require(attributes.ceil_mode == 0 || attributes.ceil_mode == 1,
          "ceil_mode is " + std::to_string(attributes.ceil_mode) + ", expected 0 or 1");
}

std::vector<int64_t> MaxPool::output_shape(const std::vector<int64_t>& x_shape) const {
  Geometry g = geometry_;
  for (int axis = 0; axis < 2 && ceil_; ++axis) g.pad_end[axis] += g.stride[axis] - 1;
  const int64_t C = x_shape.size() > 1 ? x_shape[1] : 0;
  std::vector<int64_t> shape = optc::output_shape(g, C, C, x_shape);
  for (size_t i = 2; i < shape.size() && ceil_; ++i) {  // no window begins behind the image
    const size_t axis = i + 2 - shape.size();
    shape[i] -= (shape[i] - 1) * g.stride[axis] >= x_shape[i] + g.pad_begin[axis];
  }
  return shape;
}

void MaxPool::run(const uint8_t* x, const std::vector<int64_t>& x_shape, uint8_t* y,
                  ThreadPool& pool) const {
  const Geometry& g = geometry_;
  const std::vector<int64_t> shape = output_shape(x_shape);
  const auto height = [&](const std::vector<int64_t>& s) { return g.rank == 2 ? s[2] : 1; };
  Run run = {g, height(x_shape), x_shape.back(), height(shape), shape.back(), x, y,
             x_shape[0] * x_shape[1], 1, 0, nullptr, {}};
  if (run.planes == 0) return;
  if (is_halving(g, run)) run.halved = halve_of(run.width);
  const int64_t bytes = run.planes * run.height * run.width;
  if (bytes > kAlone) run.pieces = std::min({bytes / kPiece, kMostPieces, run.planes});
  const int64_t covered = g.dilation[1] * (g.kernel[1] - 1) + 1;
  const int64_t used = std::max(g.pad_begin[1] + run.width,
                                (run.out_width - 1) * g.stride[1] + covered);
  run.row_bytes = (used / kLine + 2) * kLine;
  run.rows.resize(size_t(run.pieces * run.row_bytes));
  if (run.pieces == 1) return run.piece(0);
  pool.parallel_for(
      size_t(run.pieces),
      [](void* self, size_t i) { static_cast<Run*>(self)->piece(int64_t(i)); }, &run);
}

}  // namespace optc
