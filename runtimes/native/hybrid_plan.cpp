#include "hybrid_plan.h"

#include <algorithm>
#include <map>

namespace optc {
namespace {

// Positions in a channel of X of the 64 bytes, [pixel][tap], of a step; -1 for padding.
using Positions = std::array<int32_t, kWindow>;
using Table = std::array<uint8_t, kWindow>;

struct Pixels {
  ptrdiff_t first;
  int count;
};

class Planner {
 public:
  Planner(const Geometry& geometry, int64_t channels, HybridPlan& plan)
      : g_(geometry), sample_size_(channels * plan.size[0] * plan.size[1]), plan_(plan) {}

  // Vectors over the pixels of a sample: of whole rows by themselves or across rows.
  std::vector<Pixels> vectors(bool across_rows) const {
    const int64_t all = plan_.output[0] * plan_.output[1];
    const int64_t stretch = across_rows ? all : plan_.output[1];
    std::vector<Pixels> vectors;
    for (int64_t begin = 0; begin < all; begin += stretch) {
      for (int64_t at = 0; at < stretch; at += kPixels) {
        vectors.push_back({ptrdiff_t(begin + at), int(std::min<int64_t>(kPixels, stretch - at))});
      }
    }
    return vectors;
  }

  // Whether every step of the vectors reads from 64 neighbouring bytes.
  bool fit_windows(const std::vector<Pixels>& vectors) const {
    for (const Pixels& pixels : vectors) {
      for (size_t step = 0; step < plan_.steps; ++step) {
        const Positions positions = positions_of(pixels, step);
        const int32_t low = lowest(positions);
        for (const int32_t position : positions) {
          if (position >= low + kWindow) return false;
        }
      }
    }
    return true;
  }

  void add_tiles(const std::vector<Pixels>& vectors) {
    const int64_t all = int64_t(vectors.size()) * plan_.samples;
    const int64_t tiles = (all + kTileVectors - 1) / kTileVectors;
    for (int64_t i = 0, v = 0; i < tiles; ++i) {
      const int64_t count = (all - v + tiles - i - 1) / (tiles - i);  // of nearly equal size
      plan_.tiles.push_back(tile(vectors, v, int(count)));
      plan_.most_windows = std::max(plan_.most_windows, plan_.tiles.back().windows.size());
      v += count;
    }
  }

 private:
  Positions positions_of(const Pixels& pixels, size_t step) const {
    const int64_t words = (g_.kernel[1] + kQuad - 1) / kQuad;
    const int64_t r = int64_t(step) / words, first_tap = int64_t(step) % words * kQuad;
    Positions positions;
    positions.fill(-1);
    for (int i = 0; i < pixels.count * kQuad; ++i) {
      const int64_t p = pixels.first + i / kQuad, s = first_tap + i % kQuad;
      const int64_t row = p / plan_.output[1] * g_.stride[0] + r * g_.dilation[0] - g_.pad_begin[0];
      const int64_t column =
          p % plan_.output[1] * g_.stride[1] + s * g_.dilation[1] - g_.pad_begin[1];
      const bool inside = s < g_.kernel[1] && row >= 0 && row < plan_.size[0] && column >= 0 &&
                          column < plan_.size[1];
      if (inside) positions[size_t(i)] = int32_t(row * plan_.size[1] + column);
    }
    return positions;
  }

  static int32_t lowest(const Positions& positions) {
    int32_t low = -1;
    for (const int32_t position : positions) {
      if (position >= 0 && (low < 0 || position < low)) low = position;
    }
    return std::max(low, 0);
  }

  Window window(const Positions& positions, int64_t sample) {
    const int32_t low = lowest(positions);
    Table table;
    for (size_t i = 0; i < kWindow; ++i) {
      const int32_t position = positions[i];
      if (position >= low + kWindow) {
        plan_.scattered.push_back(positions);
        return {ptrdiff_t(sample * sample_size_), nullptr, plan_.scattered.back().data()};
      }
      table[i] = position < 0 ? kPadding : uint8_t(position - low);
    }
    const auto [place, is_new] = known_.try_emplace(table, nullptr);
    if (is_new) {
      plan_.tables.push_back(table);
      place->second = plan_.tables.back().data();
    }
    return {ptrdiff_t(sample * sample_size_ + low), place->second, nullptr};
  }

  // Vectors [first, first + count) of all those of a unit.
  TilePlan tile(const std::vector<Pixels>& vectors, int64_t first, int count) {
    TilePlan tile = {};
    std::vector<ptrdiff_t> read;
    tile.vectors = count;
    tile.straight = plan_.steps == 1;
    for (int v = 0; v < count; ++v) {
      const int64_t in_unit = first + v, per_sample = int64_t(vectors.size());
      const Pixels& pixels = vectors[size_t(in_unit % per_sample)];
      tile.sample[v] = in_unit / per_sample;
      tile.pixel[v] = pixels.first;
      tile.pixels[v] = pixels.count;
      for (size_t step = 0; step < plan_.steps; ++step) {
        const Positions positions = positions_of(pixels, step);
        tile.use.push_back(use(tile, window(positions, tile.sample[v])));
        tile.straight &= is_straight(positions, pixels.count);
        for (const int32_t position : positions) {
          if (position >= 0) read.push_back(tile.sample[v] * sample_size_ + position);
        }
      }
      tile.first[v + 1] = part(tile.windows);
    }
    if (!read.empty()) {
      const auto [first, last] = std::minmax_element(read.begin(), read.end());
      tile.x_first = *first, tile.x_last = *last;
    }
    for (const int pitch : {1, 2}) {
      if (shares_windows(tile, pitch)) tile.pitch = pitch;
    }
    return tile;
  }

  // Whether the pixels' first taps are neighbours, none of them padding.
  static bool is_straight(const Positions& positions, int pixels) {
    for (int i = 0; i < pixels; ++i) {
      if (positions[size_t(i * kQuad)] < 0 || positions[size_t(i * kQuad)] != positions[0] + i) {
        return false;
      }
    }
    return true;
  }

  // Whether each other vector of two begins with the windows that the first ends with: kernels of
  // three steps on rows below each other.
  bool shares_windows(const TilePlan& tile, int pitch) const {
    if (tile.vectors != kTileVectors || plan_.steps != 3) return false;
    const auto use = [&](int v, size_t step) { return tile.use[size_t(v) * plan_.steps + step]; };
    for (const int v : {0, 3 - pitch}) {
      for (size_t step = 0; step < 2; ++step) {
        if (use(v, step + 1) != use(v + pitch, step)) return false;
      }
    }
    return true;
  }

  static TilePart part(const std::vector<Window>& windows) {
    const auto [low, high] = std::minmax_element(
        windows.begin(), windows.end(),
        [](const Window& a, const Window& b) { return a.offset < b.offset; });
    const bool scattered = std::any_of(windows.begin(), windows.end(), [](const Window& window) {
      return window.table == nullptr;
    });
    return {windows.size(), low->offset, high->offset, scattered};
  }

  // Where a window is among those of the tile, which it joins if it is new.
  static uint32_t use(TilePlan& tile, const Window& window) {
    const auto same = [&](const Window& other) {
      return window.table != nullptr && other.table == window.table &&
             other.offset == window.offset;
    };
    auto place = std::find_if(tile.windows.begin(), tile.windows.end(), same);
    if (place == tile.windows.end()) place = tile.windows.insert(place, window);
    return uint32_t(place - tile.windows.begin());
  }

  const Geometry& g_;
  int64_t sample_size_;
  HybridPlan& plan_;
  std::map<Table, const uint8_t*> known_;
};

}  // namespace

HybridPlan make_hybrid_plan(const Geometry& geometry, int64_t height, int64_t width,
                            int64_t channels) {
  HybridPlan plan = {};
  plan.size[0] = height, plan.size[1] = width;
  for (int axis = 0; axis < 2; ++axis) {
    plan.output[axis] = geometry.output_size(axis, plan.size[axis]);
  }
  plan.steps = size_t(geometry.kernel[0] * ((geometry.kernel[1] + kQuad - 1) / kQuad));
  Planner planner(geometry, channels, plan);
  std::vector<Pixels> vectors = planner.vectors(true);
  if (!planner.fit_windows(vectors)) {
    std::vector<Pixels> by_row = planner.vectors(false);
    if (planner.fit_windows(by_row)) vectors = std::move(by_row);
  }
  plan.samples = std::max<int64_t>(1, kTileVectors / int64_t(vectors.size()));
  planner.add_tiles(vectors);
  return plan;
}

}  // namespace optc
