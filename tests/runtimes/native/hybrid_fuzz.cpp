// Bounded fuzz of the hybrid kernel, to be built with sanitizers: hybrid_fuzz SECONDS SEED.
//
// Draws layers and stores them compactly; some are then damaged. A sound layer must give the
// integer definition's bytes in every form on every instruction set of this processor, from two
// threads at once; a damaged one must be refused or run without touching memory that is not its
// own. X and Y end at a page that must not be touched, because sanitizers do not see vector loads.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>

#include "hybrid_conv.h"
#include "fuzz.h"

using namespace optc;

namespace {

uint8_t draw_byte() { return uint8_t(draw(0, 255)); }

struct Layer {
  HybridAttributes attributes;
  std::vector<int64_t> basis_shape, x_shape;
  std::vector<int8_t> basis, levels, dense;  // dense: symbols (K, C/group, M)
  std::vector<uint8_t> shift, values, code;
  std::vector<float> scale, bias;
  float x_scale = 0.05f, y_scale = 0.1f, residual_scale = 0.03f;
  uint8_t x_zero, y_zero, residual_zero;

  HybridConstants constants() const {
    const auto vector = [](const auto& v) { return std::vector<int64_t>{int64_t(v.size())}; };
    HybridConstants c;
    c.x = {{&x_scale, {}}, {&x_zero, {}}};
    c.y = {{&y_scale, {}}, {&y_zero, {}}};
    c.residual = {{&residual_scale, {}}, {&residual_zero, {}}};
    c.basis = {basis.data(), basis_shape};
    c.shift = {shift.data(), vector(shift)};
    c.values = {values.data(), vector(values)};
    c.positions = {code.data(), vector(code)};
    c.levels = {levels.data(), {int64_t(scale.size()), int64_t(shift.size())}};
    c.scale = {scale.data(), vector(scale)};
    if (!bias.empty()) c.bias = {bias.data(), vector(bias)};
    return c;
  }
};

void pack(const std::vector<bool>& bits, bool padding, std::vector<uint8_t>& bytes) {
  bytes.assign((bits.size() + 7) / 8, 0);
  for (size_t i = 0; i < bytes.size() * 8; ++i) {
    bytes[i / 8] |= uint8_t((i < bits.size() ? bits[i] : padding) << i % 8);
  }
}

void encode(Layer& layer, double density) {
  const std::vector<int64_t>& shape = layer.attributes.conv.coefficient_shape;
  const int64_t size = shape[0] * shape[1] * shape[2], block = layer.attributes.block;
  const int64_t width = layer.attributes.conv.position_bits, escape = (1 << width) - 1;
  const int64_t value_bits = layer.attributes.value_bits;
  layer.dense.assign(size_t(size), 0);
  std::vector<bool> positions, symbols;
  const auto put = [](std::vector<bool>& bits, int64_t symbol, int64_t count) {
    for (int64_t b = 0; b < count; ++b) bits.push_back(symbol >> b & 1);
  };
  int64_t gap = 0;
  for (int64_t i = 0; i < size / block; ++i, ++gap) {
    if (std::uniform_real_distribution<>()(rng) >= density) continue;
    for (; gap >= escape; gap -= escape) put(positions, escape, width);
    put(positions, gap, width);
    gap = -1;
    for (int64_t j = i * block; j < (i + 1) * block; ++j) {
      const int64_t half = value_bits == 1 ? 1 : value_bits == 4 ? 7 : 127;
      int64_t symbol = draw(-half, half);
      if (value_bits == 1) symbol = draw(0, 1) ? 1 : -1;
      layer.dense[size_t(j)] = int8_t(symbol);
      put(symbols, value_bits == 1 ? symbol < 0 : symbol, value_bits);
    }
  }
  pack(positions, true, layer.code);
  pack(symbols, false, layer.values);
}

Layer draw_layer() {
  Layer layer;
  Attributes& a = layer.attributes.conv;
  const int64_t rank = draw(1, 2), M = draw(0, 2) ? draw(1, 9) : 1;
  const bool point = M == 1 && draw(0, 1);  // a kernel of one tap
  a.group = draw(0, 2) ? 1 : draw(1, 3);
  const int64_t K = a.group * (draw(0, 1) ? 4 * draw(1, 2) : draw(1, 9));
  a.coefficient_shape = {K, draw(0, 9) ? draw(1, 9) : draw(100, 200), M};
  a.position_bits = draw(1, 16);
  layer.attributes.value_bits = draw(0, 1) ? 1 : draw(1, 2) * 4;
  const int64_t blocks[] = {1, M, a.coefficient_shape[1] * M};
  layer.attributes.block = blocks[draw(0, 2)];
  layer.attributes.lower = draw(0, 100), layer.attributes.upper = draw(100, 255);
  layer.basis_shape = {M};
  layer.x_shape = {draw(1, 3), a.group * a.coefficient_shape[1]};
  const bool same = draw(0, 1);
  int64_t taps = 1;
  for (int64_t axis = 0; axis < rank; ++axis) {
    layer.basis_shape.push_back(point ? 1 : same ? 3 : draw(1, 5));
    taps *= layer.basis_shape.back();
    a.strides.push_back(same ? draw(1, 2) : draw(1, 4));
    a.dilations.push_back(same ? 1 : draw(1, 3));
    layer.x_shape.push_back(draw(0, 5) ? draw(1, 20) : draw(1, 50));
  }
  for (int64_t i = 0; i < 2 * rank; ++i) a.pads.push_back(same ? 1 : draw(0, 3));
  for (int64_t i = 0; i < M * taps; ++i) layer.basis.push_back(int8_t(draw(-127, 127)));
  for (int64_t m = 0; m < M; ++m) layer.shift.push_back(uint8_t(draw(5, 12)));
  const int64_t bits = layer.attributes.value_bits;
  const int64_t most = bits == 1 ? 127 : bits == 4 ? 18 : 1, one = draw(1, most);
  for (int64_t i = 0; i < K * M; ++i) {
    layer.levels.push_back(int8_t(draw(0, 1) ? draw(1, most) : one));
  }
  for (int64_t k = 0; k < K; ++k) layer.scale.push_back(float(draw(1, 1000)) * 1e-6f);
  for (int64_t k = 0; k < K && same; ++k) layer.bias.push_back(float(draw(-500, 500)) * 0.01f);
  layer.attributes.response_offset = draw(0, 1) ? 0 : draw(-128, 128);
  layer.x_zero = uint8_t(draw(0, 255)), layer.y_zero = uint8_t(draw(0, 255));
  layer.residual_zero = uint8_t(draw(0, 255));
  if (layer.basis.size() == 1 && draw(0, 1)) {  // responses are X itself
    layer.basis[0] = 64, layer.shift[0] = 6;
    layer.attributes.response_offset = 128 - layer.x_zero;
  }
  encode(layer, double(draw(0, 10)) / 10);
  return layer;
}

float odd_float() {
  const float odd[] = {0.0f, -1.0f, 1e-40f, 3e38f, std::nanf(""),
                       std::numeric_limits<float>::infinity()};
  return odd[draw(0, 5)];
}

// Damages what a file can hold; shapes stay those of the data, as onnxruntime sees to that.
void damage(Layer& layer) {
  HybridAttributes& a = layer.attributes;
  switch (draw(0, 15)) {
    case 0: return damage_one(a.conv.strides, odd_int());
    case 1: return damage_one(a.conv.pads, odd_int());
    case 2: return damage_one(a.conv.dilations, odd_int());
    case 3: return damage_one(a.conv.coefficient_shape, odd_int());
    case 4: a.conv.group = odd_int(); return;
    case 5: a.conv.position_bits = odd_int(); return;
    case 6: a.value_bits = odd_int(); return;
    case 7: a.block = odd_int(); return;
    case 8: a.lower = odd_int(); return;
    case 9: return damage_one(layer.code, uint8_t(draw(0, 255)));
    case 10: return damage_one(layer.values, uint8_t(draw(0, 255)));
    case 11: return damage_one(layer.shift, uint8_t(draw(0, 255)));
    case 12: layer.levels[0] = int8_t(draw(-128, 127)); return;
    case 13: layer.scale[0] = odd_float(); return;
    case 14: a.response_offset = odd_int(); return;
    default: (draw(0, 1) ? layer.y_scale : layer.residual_scale) = odd_float();
  }
}

// T[c, m] of one output pixel, by definition.
int64_t response(const Layer& layer, const Geometry& g, const uint8_t* plane, int64_t m,
                 int64_t row, int64_t column) {
  const int64_t W = layer.x_shape.back(), H = g.rank == 2 ? layer.x_shape[2] : 1;
  int64_t sum = 0;
  for (int64_t r = 0; r < g.kernel[0]; ++r) {
    for (int64_t s = 0; s < g.kernel[1]; ++s) {
      const int64_t i = row * g.stride[0] + r * g.dilation[0] - g.pad_begin[0];
      const int64_t j = column * g.stride[1] + s * g.dilation[1] - g.pad_begin[1];
      if (i < 0 || i >= H || j < 0 || j >= W) continue;
      sum += layer.basis[size_t((m * g.kernel[0] + r) * g.kernel[1] + s)] *
             (int64_t(plane[i * W + j]) - layer.x_zero);
    }
  }
  const int64_t half = int64_t(1) << layer.shift[size_t(m)] >> 1;
  const int64_t offset = layer.attributes.response_offset;
  return std::clamp((sum + half) >> layer.shift[size_t(m)], offset - 128, offset + 127);
}

uint8_t expected(const Layer& layer, const Geometry& g, const uint8_t* x, const uint8_t* residual,
                 int64_t n, int64_t k, int64_t row, int64_t column) {
  const std::vector<int64_t>& shape = layer.attributes.conv.coefficient_shape;
  const int64_t Cg = shape[1], M = shape[2], plane = int64_t(product(layer.x_shape)) /
                                                     layer.x_shape[0] / layer.x_shape[1];
  int64_t acc = 0;
  for (int64_t c = 0; c < Cg; ++c) {
    const int64_t channel = n * layer.x_shape[1] + k / (shape[0] / layer.attributes.conv.group) * Cg + c;
    for (int64_t m = 0; m < M; ++m) {
      const int64_t symbol = layer.dense[size_t((k * Cg + c) * M + m)];
      if (symbol == 0) continue;
      acc += symbol * layer.levels[size_t(k * M + m)] *
             response(layer, g, x + channel * plane, m, row, column);
    }
  }
  // `volatile`: every operation is rounded by itself.
  volatile float u = float(acc) * (layer.scale[size_t(k)] / layer.y_scale);
  u = u + (layer.bias.empty() ? 0.0f : layer.bias[size_t(k)] / layer.y_scale);
  if (residual != nullptr) {
    volatile float added = float(int(*residual) - layer.residual_zero) *
                           (layer.residual_scale / layer.y_scale);
    u = u + added;
  }
  const float y = std::nearbyint(u) + float(layer.y_zero);
  return uint8_t(std::min(std::max(y, float(layer.attributes.lower)), float(layer.attributes.upper)));
}

void verify(const Layer& layer, const std::vector<int64_t>& shape, const uint8_t* x,
            const uint8_t* residual, const uint8_t* y, const char* isa, int form) {
  const Geometry g = read_geometry(layer.attributes.conv, layer.basis_shape);
  const int64_t width = shape.back(), pixels = int64_t(product(shape)) / shape[0] / shape[1];
  for (int check = 0; check < 300; ++check) {
    const int64_t at = draw(0, int64_t(product(shape)) - 1), p = at % pixels;
    const int64_t k = at / pixels % shape[1], n = at / pixels / shape[1];
    const uint8_t want = expected(layer, g, x, residual ? residual + at : nullptr, n, k, p / width,
                                  p % width);
    if (want == y[at]) continue;
    std::printf("%s, form %d: %d instead of %d\n", isa, form, y[at], want);
    std::exit(1);
  }
}

// Whether the layer was accepted.
bool run(const Layer& layer, bool sound, const HybridKernels& kernels, Form form) {
  try {
    const HybridConv conv(layer.attributes, layer.constants(), kernels, &form);
    const std::vector<int64_t> shape = conv.output_shape(layer.x_shape);
    if (product(shape) > (1 << 20)) return false;  // huge padding: right, but slow
    Guarded<uint8_t> x(product(layer.x_shape), draw_byte), residual(product(shape), draw_byte),
        y(product(shape), draw_byte);
    TwoThreads pool;
    const uint8_t* added = draw(0, 1) ? residual.data() : nullptr;
    conv.run(x.data(), layer.x_shape, added, y.data(), pool);
    if (sound) verify(layer, shape, x.data(), added, y.data(), kernels.isa, int(conv.form()));
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::vector<const HybridKernels*> all_kernels() {
  std::vector<const HybridKernels*> all;
  for (const char* isa : {"portable", "avx2", "avxvnni", "avx512vnni", "avx512"}) {
    setenv("OPTC_ISA", isa, 1);
    const HybridKernels* kernels = select_hybrid_kernels();
    if (kernels != nullptr && (all.empty() || all.back() != kernels)) all.push_back(kernels);
  }
  return all;
}

}  // namespace

int main(int, char** argv) {
  std::vector<std::pair<const HybridKernels*, Form>> variants;
  for (const HybridKernels* kernels : all_kernels()) {
    for (const Form form : {Form::kPairs, Form::kDense, Form::kElements}) {
      variants.emplace_back(kernels, form);
    }
  }
  const auto run_one = [](Layer& layer, bool sound, const auto& variant) {
    return run(layer, sound, *variant.first, variant.second);
  };
  return fuzz(argv, draw_layer, damage, variants, run_one);
}
