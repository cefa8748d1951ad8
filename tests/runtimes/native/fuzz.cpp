// Bounded fuzz of the kernel's own functions, to be built with sanitizers: fuzz SECONDS SEED.
//
// Draws layers and stores them compactly; some are then damaged. A sound layer must give the
// float64 result on every instruction set of this processor, in two runs at once of two threads
// each and of images of different sizes; a damaged one must be refused or run without touching
// memory that is not its own. X and Y end at a page that must not be touched, because sanitizers do
// not see vector loads.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "decomposed_conv.h"
#include "fuzz.h"

using namespace optc;

namespace {

float draw_float() { return std::normal_distribution<float>()(rng); }

struct Layer {
  Attributes attributes;
  std::vector<int64_t> basis_shape, x_shape;
  std::vector<float> basis, values, bias, dense;  // dense: (K, C/group, M)
  std::vector<uint8_t> code;
  int64_t block;

  Constants constants() const {
    Constants c;
    c.basis = {basis.data(), basis_shape};
    c.values = {values.data(), {int64_t(values.size()) / block, block}};
    c.positions = {code.data(), {int64_t(code.size())}};
    if (!bias.empty()) c.bias = {bias.data(), {int64_t(bias.size())}};
    return c;
  }
};

void encode(Layer& layer, double density) {
  const std::vector<int64_t>& shape = layer.attributes.coefficient_shape;
  const int64_t size = shape[0] * shape[1] * shape[2];
  const int64_t width = layer.attributes.position_bits, escape = (1 << width) - 1;
  layer.dense.assign(size_t(size), 0.0f);
  std::vector<bool> bits;
  const auto put = [&](int64_t symbol) {
    for (int64_t b = 0; b < width; ++b) bits.push_back(symbol >> b & 1);
  };
  int64_t gap = 0;
  for (int64_t i = 0; i < size / layer.block; ++i, ++gap) {
    if (std::uniform_real_distribution<>()(rng) >= density) continue;
    for (; gap >= escape; gap -= escape) put(escape);
    put(gap);
    gap = -1;
    for (int64_t j = 0; j < layer.block; ++j) {
      layer.values.push_back(draw_float());
      layer.dense[size_t(i * layer.block + j)] = layer.values.back();
    }
  }
  while (bits.size() % 8 != 0) bits.push_back(true);
  layer.code.assign(bits.size() / 8, 0);
  for (size_t i = 0; i < bits.size(); ++i) layer.code[i / 8] |= uint8_t(bits[i] << i % 8);
}

Layer draw_layer() {
  Layer layer;
  Attributes& a = layer.attributes;
  const bool wide = draw(0, 9) == 0;  // so many rows of T that they need several passes
  const int64_t rank = draw(1, 2), M = draw(1, 8);
  a.group = draw(0, 2) ? 1 : draw(1, 3);
  a.coefficient_shape = {a.group * draw(1, 9), wide ? draw(150, 300) : draw(1, 9), M};
  a.position_bits = draw(1, 16);
  layer.basis_shape = {M};
  layer.x_shape = {draw(1, 3), a.group * a.coefficient_shape[1]};
  const bool same = draw(0, 1);
  for (int64_t axis = 0; axis < rank; ++axis) {
    layer.basis_shape.push_back(same ? 3 : draw(1, 4));
    a.strides.push_back(same ? 1 : draw(1, 3));
    a.dilations.push_back(same ? 1 : draw(1, 2));
    layer.x_shape.push_back(draw(1, wide ? 5 : 20));
  }
  for (int64_t i = 0; i < 2 * rank; ++i) a.pads.push_back(same ? 1 : draw(0, 3));
  a.clamp = draw(0, 1);
  a.lower = -1, a.upper = 1;
  layer.block = draw(0, 1) ? M : 1;
  int64_t taps = 1;
  for (size_t i = 1; i < layer.basis_shape.size(); ++i) taps *= layer.basis_shape[i];
  for (int64_t i = 0; i < M * taps; ++i) layer.basis.push_back(draw_float());
  if (draw(0, 1)) {
    for (int64_t k = 0; k < a.coefficient_shape[0]; ++k) layer.bias.push_back(draw_float());
  }
  encode(layer, double(draw(0, 10)) / 10);
  return layer;
}

// Damages what a file can hold; shapes stay those of the data, as onnxruntime sees to that.
void damage(Layer& layer) {
  Attributes& a = layer.attributes;
  switch (draw(0, 8)) {
    case 0: return damage_one(a.strides, odd_int());
    case 1: return damage_one(a.pads, odd_int());
    case 2: return damage_one(a.dilations, odd_int());
    case 3: return damage_one(a.coefficient_shape, odd_int());
    case 4: a.group = odd_int(); return;
    case 5: a.position_bits = odd_int(); return;
    case 6: return damage_one(layer.code, uint8_t(draw(0, 255)));
    case 7:
      if (!layer.values.empty()) {
        layer.values[0] = draw(0, 1) ? std::nanf("") : std::numeric_limits<float>::infinity();
      }
      return;
    default: layer.values.resize(layer.values.size() / 2 / size_t(layer.block) * size_t(layer.block));
  }
}

// A sum in float64, and that of the absolute values of what was added up.
struct Sum {
  double value, size;
};

// Y[n, k, row, column] by definition.
Sum expected(const Layer& layer, const Geometry& g, const std::vector<int64_t>& x_shape,
                const float* x, int64_t n, int64_t k, int64_t row, int64_t column) {
  const Attributes& a = layer.attributes;
  const int64_t Cg = a.coefficient_shape[1], M = a.coefficient_shape[2], C = x_shape[1];
  const int64_t W = x_shape.back(), H = g.rank == 2 ? x_shape[2] : 1;
  const double bias = layer.bias.empty() ? 0 : layer.bias[size_t(k)];
  Sum sum = {bias, std::abs(bias)};
  for (int64_t c = 0; c < Cg; ++c) {
    const int64_t channel = k / (a.coefficient_shape[0] / a.group) * Cg + c;
    for (int64_t r = 0; r < g.kernel[0]; ++r) {
      for (int64_t s = 0; s < g.kernel[1]; ++s) {
        const int64_t i = row * g.stride[0] + r * g.dilation[0] - g.pad_begin[0];
        const int64_t j = column * g.stride[1] + s * g.dilation[1] - g.pad_begin[1];
        if (i < 0 || i >= H || j < 0 || j >= W) continue;
        const double pixel = x[((n * C + channel) * H + i) * W + j];
        for (int64_t m = 0; m < M; ++m) {
          const double term = double(layer.dense[size_t((k * Cg + c) * M + m)]) *
                              layer.basis[size_t((m * g.kernel[0] + r) * g.kernel[1] + s)] * pixel;
          sum.value += term;
          sum.size += std::abs(term);
        }
      }
    }
  }
  return sum;
}

// One run of a layer, with an image of its own size.
struct Call {
  std::vector<int64_t> x_shape, shape;  // of X and Y
  Guarded<float> x, residual, y;
  const float* added;

  Call(const DecomposedConv& conv, const std::vector<int64_t>& size)
      : x_shape(size),
        shape(conv.output_shape(size)),
        x(product(x_shape), draw_float),
        residual(product(shape), draw_float),
        y(product(shape), draw_float),
        added(draw(0, 1) ? residual.data() : nullptr) {}

  void run(const DecomposedConv& conv) {
    TwoThreads pool;
    conv.run(x.data(), x_shape, added, y.data(), pool);
  }
};

void verify(const Layer& layer, Call& call, const char* isa) {
  const Geometry g = read_geometry(layer.attributes, layer.basis_shape);
  const std::vector<int64_t>& shape = call.shape;
  const int64_t width = shape.back(), height = g.rank == 2 ? shape[2] : 1;
  double error = 0, norm = 0, size = 0;
  size_t at = 0;
  for (int64_t n = 0; n < shape[0]; ++n) {
    for (int64_t k = 0; k < shape[1]; ++k) {
      for (int64_t p = 0; p < height * width; ++p, ++at) {
        const Sum sum =
            expected(layer, g, call.x_shape, call.x.data(), n, k, p / width, p % width);
        double want = sum.value + (call.added ? call.added[at] : 0);
        if (layer.attributes.clamp) want = std::min(std::max(want, -1.0), 1.0);
        const double difference = want - call.y.data()[at];
        error += difference * difference;
        norm += want * want;
        size += sum.size * sum.size;
      }
    }
  }
  // Sums that nearly cancel have no relative accuracy.
  if (!(std::sqrt(error) <= 1e-5 * std::max(std::sqrt(norm), std::sqrt(size) / 100) + 1e-6)) {
    std::printf("%s: relative error %g, of what was added up %g\n", isa, std::sqrt(error / norm),
                std::sqrt(error / size));
    std::exit(1);
  }
}

// Code that leaves values in the MMX registers breaks the x87 arithmetic of its caller.
void check_x87() {
#if defined(__x86_64__)
  struct {
    uint32_t control, status, tags, rest[4];
  } environment;
  asm volatile("fnstenv %0\n\tfldenv %0" : "+m"(environment));
  if ((environment.tags & 0xffff) != 0xffff) {
    std::puts("the x87 registers are in use");
    std::exit(1);
  }
#endif
}

// Whether the layer was accepted.
bool run(const Layer& layer, bool sound, const Kernels& kernels) {
  try {
    const DecomposedConv conv(layer.attributes, layer.constants(), kernels);
    std::vector<int64_t> wider = layer.x_shape;
    ++wider.back();
    if (product(conv.output_shape(wider)) > (1 << 22)) return false;  // right, but slow
    Call call(conv, layer.x_shape), other(conv, wider);
    std::thread at_once([&] { other.run(conv); });
    call.run(conv);
    at_once.join();
    if (sound) {
      verify(layer, call, kernels.isa);
      verify(layer, other, kernels.isa);
    }
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> all;
  for (const char* isa : {"portable", "avx2", "avx512"}) {
    setenv("OPTC_ISA", isa, 1);
    if (const Kernels* kernels = select_kernels()) all.push_back(kernels);
  }
  return all;
}

}  // namespace

int main(int, char** argv) {
  const auto run_one = [](Layer& layer, bool sound, const Kernels* kernels) {
    const bool accepted = run(layer, sound, *kernels);
    check_x87();
    return accepted;
  };
  return fuzz(argv, draw_layer, damage, all_kernels(), run_one);
}
