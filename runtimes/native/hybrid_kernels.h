// The inner loops of a hybrid (8-bit) decomposed convolution over one tile of output pixels.
//
//     R[c, m, p] = sum_t B[m, t] * (x[c, pixel p, tap t] - x_zero)          int32
//     T[c, m, p] = clamp((R + (1 << shift >> 1)) >> shift, z - 128, z + 127)   z: an attribute
//     acc[k, p]  = sum_(c, m) Ce[k, c, m] * T[c, m, p]                      int32
//     y[k, p]    = clamp(rint(f32(acc) * a[k] + b[k] [+ f32(r - r_zero) * rho]) + y_zero)
//
// Four basis kernels of one channel make a quad (or four channels, where there is only one basis
// kernel): their four responses to a pixel are one operand of an 8-bit dot product, and so are the
// four taps of a kernel row. Two forms of the second line:
// pairs hold T as [quad][pixel][4] and one 32-bit weight for each stored (output, quad); elements
// hold T as [quad][4][pixel], a row for each basis kernel, and gather any four rows that an output
// channel uses. Integers are exact and each float operation is rounded by itself, so every
// instruction set gives the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace optc {

constexpr int kPixels = 16;      // output pixels of a vector
constexpr int kTileVectors = 4;  // vectors of a tile
constexpr int kQuad = 4;         // basis kernels, or taps, of one 32-bit operand
constexpr int kWindow = 64;      // bytes of X that a step of a vector may see
constexpr int kQuadBytes = kPixels * kQuad;  // of T, for one quad and vector
constexpr int kDenseRows = 4;    // output channels that share the loads of T
constexpr int64_t kMostRows = 1 << 16;  // of T that FourWeights can tell apart
constexpr uint8_t kPadding = 64;   // in Window::table: not a byte of X, but its zero point

// The 64 bytes, [pixel][tap], that one step (up to four taps of a kernel row) reads of a channel.
struct Window {
  ptrdiff_t offset;          // from the start of the channel in the first sample
  const uint8_t* table;      // (64,) byte of X behind `offset`, or kPadding; null: scattered
  const int32_t* scattered;  // (64,) position behind `offset`, or -1 for padding
};

struct HybridTile {
  int vectors;
  const Window* windows;
  size_t n_windows;
  const uint32_t* use;  // (vectors, steps) which window
  int pitch;  // where not 0: vectors v and v + pitch of four with three steps share two windows
  ptrdiff_t x_first, x_last;  // bytes of a channel of X, as Window::offset, that windows show
  ptrdiff_t low, high;        // least and greatest Window::offset
  bool scattered;             // a window is
  bool straight;              // the pixels of a vector are 16 bytes in a row from its window on
  ptrdiff_t output[kTileVectors];  // start of Y[k = 0] for each vector
  int pixels[kTileVectors];        // 1 .. kPixels
  bool contiguous;                 // the vectors are full and follow each other in Y
};

// Four basis kernels on one channel, or the only one on four; their responses are the quads of T in
// order.
struct Quad {
  uint32_t channel;  // the first
  uint32_t basis;    // which four of the basis kernels
};

struct HybridResponseArgs {
  const HybridTile* tile;
  const uint8_t* x;                // channel 0 of the tile's first sample
  const uint8_t *x_begin, *x_end;  // of the whole tensor: what may be read
  ptrdiff_t plane;                 // bytes of one channel of X
  uint32_t channels;               // of X
  uint8_t zero_point;
  const Quad* quads;
  size_t n_quads;
  int channels_of_quad;   // 1 or 4
  bool copies;            // four channels, and T is X less 128
  size_t steps;
  const uint32_t* basis;  // (quads of basis kernels, steps, 4) four taps each
  const int32_t* start;   // (quads of basis kernels, 4) zero point and rounding, to begin R with
  const int32_t* shift;   // (quads of basis kernels, 4)
  uint8_t* windows;       // (channels_of_quad, n_windows, 64) to work with
  uint8_t* t;             // (n_quads, vectors, 64)
};

// Of one stored (output channel, quad).
struct PairWeight {
  uint32_t weight;  // Ce of the four, as bytes
  uint32_t quad;
};

// Of four elements of Ce of one output channel; what is missing to the last four is zero.
struct FourWeights {
  uint32_t weight;       // Ce of the four, as bytes
  uint16_t rows[kQuad];  // quad * kQuad + m
};

// What ends a sum: see the equation above.
struct Requantise {
  const int32_t* start;  // (K,) undoes the offset of T
  const float *a, *b;    // (K,)
  int32_t y_zero, residual_zero;
  float rho;
  uint8_t lower, upper;
};

struct HybridRowArgs {
  const HybridTile* tile;
  const uint8_t* t;
  size_t k_begin, k_end;
  const uint32_t* order;    // (K,) output channels; `pairs` and `fours` are in this order
  const PairWeight* pairs;  // by output channel
  const uint32_t* dense;    // (K / 4, quads of the group, 4) in place of `pairs`
  const FourWeights* fours;  // by output channel, in place of `pairs`
  const uint32_t* begin;    // (K + 1,) of `pairs` or `fours`
  size_t k_group, quads_per_group;  // of `dense`: every group has as many quads
  const Requantise* requantise;
  uint8_t* y;
  ptrdiff_t plane;  // bytes of one channel of Y
  const uint8_t* residual;  // like Y, or null
};

// The loops as built for one instruction set.
struct HybridKernels {
  const char* isa;
  int32_t offset;  // T - z is stored plus this
  void (*pair_responses)(const HybridResponseArgs&);
  void (*element_responses)(const HybridResponseArgs&);
  void (*pair_rows)(const HybridRowArgs&);
  void (*dense_rows)(const HybridRowArgs&);
  void (*element_rows)(const HybridRowArgs&);
};

// The best kernels this processor can run, or those that OPTC_ISA names; of avx512, the best it
// has. Null: OPTC_ISA names none that can run here.
const HybridKernels* select_hybrid_kernels();

extern const HybridKernels hybrid_portable_kernels;
#if defined(__x86_64__)
extern const HybridKernels hybrid_avx2_kernels;
#if __GNUC__ >= 11  // older compilers do not know it
#define OPTC_AVXVNNI
extern const HybridKernels hybrid_avxvnni_kernels;
#endif
extern const HybridKernels hybrid_avx512_kernels;
extern const HybridKernels hybrid_avx512vnni_kernels;  // without the byte permutes of VBMI
#endif

}  // namespace optc
