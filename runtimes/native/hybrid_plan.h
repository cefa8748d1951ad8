// Which bytes of the input each tile of output pixels reads: depends on the size of the image but
// not on its content.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "hybrid_kernels.h"
#include "image_plan.h"

namespace optc {

// What some of the vectors of a tile need.
struct TilePart {
  size_t n_windows;     // the first ones of the tile
  ptrdiff_t low, high;  // least and greatest offset of these
  bool scattered;       // one of these is
};

// Up to kTileVectors vectors; windows are in the order in which vectors first use them, so that
// some of the vectors need the first of the windows only.
struct TilePlan {
  int vectors;
  int64_t sample[kTileVectors];       // within the unit
  ptrdiff_t pixel[kTileVectors];      // first output pixel
  int pixels[kTileVectors];
  TilePart first[kTileVectors + 1];    // of the first vectors
  ptrdiff_t x_first, x_last;           // see HybridTile
  int pitch;                           // see HybridTile
  bool straight;
  std::vector<Window> windows;
  std::vector<uint32_t> use;           // (vectors, steps)
};

// Tiles of a unit: one sample, or several where images are smaller than a tile.
struct HybridPlan {
  int64_t size[2], output[2];  // height and width of X and Y
  int64_t samples;             // of a unit
  size_t steps;
  size_t most_windows;         // of any tile
  std::vector<TilePlan> tiles;
  std::deque<std::array<uint8_t, kWindow>> tables;      // that the windows point to
  std::deque<std::array<int32_t, kWindow>> scattered;
};

// `channels`: of X, between samples. Throws std::bad_alloc where there is no memory.
HybridPlan make_hybrid_plan(const Geometry& geometry, int64_t height, int64_t width,
                            int64_t channels);

}  // namespace optc
