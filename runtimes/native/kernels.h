// The two inner loops of a decomposed convolution over one tile of output pixels.
//
//     T[c, m, p] = sum_t B[m, t] * X[c, pixel p, tap t]        basis responses
//     Y[k, p]    = act(bias[k] + sum_(c, m) Ce[k, c, m] * T[c, m, p] + residual[k, p])
//
// A tile is up to kMaxVectors SIMD vectors of output pixels, in row-major order of the image, so
// narrow images fill vectors as well as wide ones. T is small enough to stay in the cache. Every
// instruction set has its own build of kernels_impl.h, chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace optc {

constexpr int kMaxVectors = 4;
constexpr int kMaxLanes = 16;

// One nonzero of Ce; `row` is the row (c, m) of T.
struct Coefficient {
  float value;
  uint32_t row;
};

// One input channel: which rows of T are its responses.
struct Channel {
  uint32_t index;      // channel of X
  uint32_t first_row;  // rows first_row .. first_row + rows of T
  uint32_t rows;
};

// Where the lanes of a vector lie in X, from the position of its first.
enum Lanes {
  kNeighbours,   // 0, 1, 2, ...: stride 1, output as wide as the input
  kEverySecond,  // 0, 2, 4, ... in either half of the vector: stride 2
  kScattered,    // as `lane_offset` says
};

// Vectors of output pixels. A vector lies within one sample; the last one of a sample may have
// fewer pixels than lanes.
struct Tile {
  int vectors;
  ptrdiff_t input[kMaxVectors];           // start of X for the vector, less padding: see Taps
  ptrdiff_t output[kMaxVectors];          // start of Y[k = 0] for the vector
  int pixels[kMaxVectors];                // 1 .. lanes
  const uint16_t* mask[kMaxVectors];      // (taps,) bit l: lane l of the tap lies in the image
  const int32_t* lane_offset[kMaxVectors];  // (lanes,) in X from `input`; null for kNeighbours
  Lanes lanes;
  bool far;  // X and Y are so large that their lines are fetched ahead
};

// Kernel positions: tap t of a pixel lies `offset[t]` behind the pixel's first position in X.
struct Taps {
  int count;
  const ptrdiff_t* offset;  // (taps,)
  int width;                // taps of one row of the kernel
};

struct ResponseArgs {
  const Tile* tile;
  Taps taps;
  const float* x;             // X of sample 0, channel 0
  ptrdiff_t plane;            // elements of one channel of X
  const Channel* channels;    // (n_channels,)
  size_t n_channels;
  const uint32_t* row_basis;  // (rows of T,) which m each row is of
  const float* basis;         // (M, taps)
  float* t;                   // (rows, vectors, lanes), row 0 is row `t_row` of T
  uint32_t t_row;
};

struct RowArgs {
  const Tile* tile;
  const float* t;                   // (rows, vectors, lanes), row 0 is row `t_row` of T
  uint32_t t_row;
  const Coefficient* coefficients;  // by output channel, then row
  const uint32_t* begin;            // (K, stride) the first coefficient of k is begin[k * stride]
  const uint32_t* end;              // likewise
  size_t stride;
  size_t k_begin, k_end;
  float* y;
  ptrdiff_t plane;        // elements of one channel of Y
  const float* bias;      // (K,)
  const float* residual;  // like Y, or null
  bool first, last;       // of all rows of T: start from the bias, end with the activation
  bool clamp;
  float lower, upper;
};

// The two loops as built for one instruction set.
struct Kernels {
  const char* isa;
  int lanes;
  void (*responses)(const ResponseArgs&);
  void (*rows)(const RowArgs&);
};

// The best kernels this processor can run, or those that OPTC_ISA names. Null: OPTC_ISA names
// none that can run here.
const Kernels* select_kernels();

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

}  // namespace optc
