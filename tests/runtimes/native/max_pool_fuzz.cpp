// Bounded fuzz of the pooling, to be built with sanitizers: max_pool_fuzz SECONDS SEED.
//
// A sound pooling must give the largest pixel of every window, from two threads at once; a damaged
// one must be refused or run without touching memory that is not its own. X and Y end at a page
// that must not be touched, because sanitizers do not see vector loads.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "constants.h"
#include "max_pool.h"
#include "fuzz.h"

using namespace optc;

namespace {

constexpr int64_t kMostElements = 1 << 20;  // above: right, but slow

uint8_t draw_byte() { return uint8_t(draw(0, 255)); }

struct Layer {
  MaxPoolAttributes attributes;
  std::vector<int64_t> x_shape;
};

Layer draw_layer() {
  Layer layer;
  MaxPoolAttributes& a = layer.attributes;
  const int64_t rank = draw(1, 2);
  const bool usual = draw(0, 1), large = draw(0, 9) == 0;
  const int64_t kernel = draw(2, 3), size = int64_t(1) << draw(1, 5);
  layer.x_shape = {draw(0, 3), large ? draw(200, 300) : draw(1, 9)};
  for (int64_t axis = 0; axis < rank; ++axis) {
    a.kernel_shape.push_back(usual ? kernel : draw(1, 5));
    a.strides.push_back(usual ? 2 : draw(1, 4));
    a.dilations.push_back(usual ? 1 : draw(1, 3));
    layer.x_shape.push_back(usual ? size : draw(1, 50));
  }
  for (int64_t i = 0; i < 2 * rank; ++i) {
    a.pads.push_back(usual ? kernel - 2 : draw(0, a.kernel_shape[size_t(i % rank)] - 1));
  }
  a.ceil_mode = draw(0, 1);
  return layer;
}

void damage(Layer& layer) {
  MaxPoolAttributes& a = layer.attributes;
  switch (draw(0, 5)) {
    case 0: return damage_one(a.kernel_shape, odd_int());
    case 1: return damage_one(a.strides, odd_int());
    case 2: return damage_one(a.pads, odd_int());
    case 3: return damage_one(a.dilations, odd_int());
    case 4: a.ceil_mode = odd_int(); return;
    default: return damage_one(layer.x_shape, draw(0, 20));
  }
}

// The largest pixel in the window of element `at` of Y.
uint8_t expected(const Layer& layer, const std::vector<int64_t>& shape, const uint8_t* x,
                 int64_t at) {
  const MaxPoolAttributes& a = layer.attributes;
  const size_t rank = a.kernel_shape.size();
  const auto coordinate = [&](size_t axis, int64_t index, int64_t tap) {
    return index * a.strides[axis] + tap * a.dilations[axis] - a.pads[axis];
  };
  const int64_t W = layer.x_shape.back(), H = rank == 2 ? layer.x_shape[2] : 1;
  const int64_t column = at % shape.back(), rows = at / shape.back();
  const int64_t row = rank == 2 ? rows % shape[2] : 0, plane = rank == 2 ? rows / shape[2] : rows;
  uint8_t most = 0;
  for (int64_t r = 0; r < (rank == 2 ? a.kernel_shape[0] : 1); ++r) {
    for (int64_t s = 0; s < a.kernel_shape.back(); ++s) {
      const int64_t i = rank == 2 ? coordinate(0, row, r) : 0, j = coordinate(rank - 1, column, s);
      if (i >= 0 && i < H && j >= 0 && j < W) most = std::max(most, x[(plane * H + i) * W + j]);
    }
  }
  return most;
}

// Whether the pooling was accepted.
bool run(const Layer& layer, bool sound, int) {
  try {
    const MaxPool op(layer.attributes);
    const std::vector<int64_t> shape = op.output_shape(layer.x_shape);
    if (int64_t(product(shape)) > kMostElements) return false;
    Guarded<uint8_t> x(product(layer.x_shape), draw_byte), y(product(shape), draw_byte);
    TwoThreads pool;
    op.run(x.data(), layer.x_shape, y.data(), pool);
    for (int check = 0; sound && product(shape) > 0 && check < 300; ++check) {
      const int64_t at = draw(0, int64_t(product(shape)) - 1);
      const uint8_t want = expected(layer, shape, x.data(), at);
      if (want == y.data()[at]) continue;
      std::printf("%d instead of %d\n", y.data()[at], want);
      std::exit(1);
    }
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

int main(int, char** argv) {
  return fuzz(argv, draw_layer, damage, std::vector<int>{0}, run);
}
