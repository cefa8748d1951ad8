#include "hybrid_conv.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>

namespace optc {
namespace {

constexpr int64_t kFewTiles = 4;  // tiles that do not keep threads busy
constexpr size_t kChunks = 16;    // of output channels, for threads that share such tiles

std::atomic<uint64_t> calls{0};

// What a thread keeps: memory for T and windows, and whose T it is.
struct OwnResponses {
  Scratch memory;
  uint64_t call = 0;
  size_t tile = 0;
};
thread_local OwnResponses own_responses;

int64_t nanoseconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

}  // namespace

// One call: shapes, pointers and the cut into tiles. Threads that share a tile take some of its
// output channels each, and all compute its responses: to fetch from another core what it has
// just written takes longer, and so does to write again what another core has read.
struct HybridConv::Run {
  const HybridConv& op;
  const HybridPlan& plan;
  const HybridWeights& w;
  const Requantise requantise;
  const uint8_t* x;
  const uint8_t* x_end;
  const uint8_t* residual;
  uint8_t* y;
  int64_t samples;
  ptrdiff_t x_plane, y_plane;  // bytes of one channel
  size_t tiles;
  size_t chunks;               // of output channels in each
  const uint64_t call = ++calls;
  std::atomic<bool> out_of_memory{false};
  const OwnResponses* const caller = &own_responses;
  int64_t start = 0;                     // of a call that is measured
  std::atomic<int64_t> other_began{0};   // when the first of the other threads did

  size_t most_t_bytes() const {
    return w.quads.size() * size_t(kTileVectors * kQuadBytes);
  }
  size_t window_bytes() const {
    return size_t(w.channels_of_quad) * plan.most_windows * size_t(kWindow);
  }
  const uint8_t* x_of(size_t index) const {
    return x + ptrdiff_t(index / plan.tiles.size()) * plan.samples * w.C * x_plane;
  }

  // No vectors: all samples of the tile lie behind the last.
  HybridTile tile(size_t index) const {
    const TilePlan& planned = plan.tiles[index % plan.tiles.size()];
    const int64_t first_sample = int64_t(index / plan.tiles.size()) * plan.samples;
    HybridTile tile = {};
    tile.contiguous = true;
    for (int v = 0; v < planned.vectors && first_sample + planned.sample[v] < samples; ++v) {
      const int64_t sample = first_sample + planned.sample[v];
      tile.output[v] = sample * w.K * y_plane + planned.pixel[v];
      tile.pixels[v] = planned.pixels[v];
      tile.contiguous &=
          tile.pixels[v] == kPixels && tile.output[v] == tile.output[0] + v * kPixels;
      tile.vectors = v + 1;
    }
    tile.windows = planned.windows.data();
    const TilePart& part = planned.first[tile.vectors];
    tile.n_windows = part.n_windows;
    tile.low = part.low, tile.high = part.high, tile.scattered = part.scattered;
    tile.use = planned.use.data();
    tile.x_first = planned.x_first, tile.x_last = planned.x_last;
    tile.straight = planned.straight;
    tile.pitch = tile.vectors == planned.vectors ? planned.pitch : 0;
    return tile;
  }

  void all_pieces(ThreadPool& pool, Sharing& sharing) {
    const Sharing::Choice choice = sharing.next(int64_t(tiles));
    if (choice.measure) start = nanoseconds();
    if (choice.share) {
      pool.parallel_for(
          tiles * chunks, [](void* self, size_t i) { static_cast<Run*>(self)->piece(i); }, this);
      if (choice.measure) sharing.began_after(other_began - start, other_began != 0);
    } else {
      chunks = 1;
      for (size_t i = 0; i < tiles; ++i) piece(i);
      if (choice.measure) sharing.took_alone(nanoseconds() - start, int64_t(tiles));
    }
    if (out_of_memory) throw std::bad_alloc();
  }

  void piece(size_t i) {
    if (start != 0 && &own_responses != caller && other_began == 0) other_began = nanoseconds();
    const size_t index = i / chunks, chunk = i % chunks;
    const size_t fours = (size_t(w.K) + kDenseRows - 1) / kDenseRows;
    const size_t begin = fours * chunk / chunks * kDenseRows;
    const size_t end = std::min(fours * (chunk + 1) / chunks * kDenseRows, size_t(w.K));
    const HybridTile own = tile(index);
    if (begin == end || own.vectors == 0) return;
    if (chunks > 1) claim(own, begin, end);
    const uint8_t* t = responses_of(index, own);
    if (t == nullptr) {
      out_of_memory = true;
    } else {
      rows(own, t, begin, end);
    }
  }

  // Begins to take the lines of Y that this thread will write from the core that has read them.
  void claim(const HybridTile& tile, size_t k_begin, size_t k_end) const {
    for (size_t k = k_begin; k < k_end; ++k) {
      __builtin_prefetch(y + tile.output[0] + ptrdiff_t(k) * y_plane, 1);
    }
  }

  // T of a tile, which this thread may have computed already; null: no memory.
  const uint8_t* responses_of(size_t index, const HybridTile& tile) const {
    OwnResponses& own = own_responses;
    uint8_t* t = static_cast<uint8_t*>(own.memory.reserve(most_t_bytes() + window_bytes()));
    if (t == nullptr || (own.call == call && own.tile == index)) return t;
    responses(tile, x_of(index), t, t + most_t_bytes());
    own.call = call, own.tile = index;
    return t;
  }

  void responses(const HybridTile& tile, const uint8_t* of_tile, uint8_t* t,
                 uint8_t* windows) const {
    const HybridResponseArgs args = {
        &tile, of_tile, x, x_end, x_plane, uint32_t(w.C), w.x_zero,
        w.quads.data(), w.quads.size(), w.channels_of_quad, w.copies, plan.steps,
        w.basis.data(), w.start_of_r.data(), w.shift.data(), windows, t};
    w.form == Form::kElements ? op.kernels_.element_responses(args)
                              : op.kernels_.pair_responses(args);
  }

  void rows(const HybridTile& tile, const uint8_t* t, size_t k_begin, size_t k_end) const {
    const size_t k_group = size_t(w.K) / size_t(op.group_);
    const HybridRowArgs args = {
        &tile, t, k_begin, k_end, w.order.data(), w.pairs.data(), w.dense.data(),
        w.fours.data(), w.begin.data(), k_group, w.quads_per_group, &requantise,
        y, y_plane, residual};
    switch (w.form) {
      case Form::kPairs: return op.kernels_.pair_rows(args);
      case Form::kDense: return op.kernels_.dense_rows(args);
      case Form::kElements: return op.kernels_.element_rows(args);
    }
  }
};

HybridConv::HybridConv(const HybridAttributes& attributes, const HybridConstants& constants,
                       const HybridKernels& kernels, const Form* form)
    : geometry_(read_geometry(attributes.conv, constants.basis.shape)),
      weights_(pack_hybrid_weights(attributes, constants, kernels.offset, form)),
      group_(attributes.conv.group),
      kernels_(kernels) {}

std::vector<int64_t> HybridConv::output_shape(const std::vector<int64_t>& x_shape) const {
  return optc::output_shape(geometry_, weights_.wide.C, weights_.wide.K, x_shape);
}

void HybridConv::run(const uint8_t* x, const std::vector<int64_t>& x_shape,
                     const uint8_t* residual, uint8_t* y, ThreadPool& pool) const {
  const int64_t height = geometry_.rank == 2 ? x_shape[2] : 1, width = x_shape.back();
  if (x_shape[0] == 0) return;
  const std::shared_ptr<const HybridPlan> plan =
      plans_.get(height, width,
                 [&] { return make_hybrid_plan(geometry_, height, width, weights_.wide.C); });
  const bool is_narrow = x_shape[0] == 1 && plan->samples > kTileVectors / 2;  // of one vector
  const HybridWeights& weights =
      is_narrow && weights_.narrow != nullptr ? *weights_.narrow : weights_.wide;
  const uint8_t* x_end = x + x_shape[0] * weights.C * height * width;
  const int64_t tiles = (x_shape[0] + plan->samples - 1) / plan->samples *
                        int64_t(plan->tiles.size());
  Run run = {*this, *plan, weights, weights.requantise(), x, x_end, residual, y,
             x_shape[0], ptrdiff_t(height * width),
             ptrdiff_t(plan->output[0] * plan->output[1]), size_t(tiles),
             tiles < kFewTiles ? kChunks : 1};
  run.all_pieces(pool, sharing_);
}

}  // namespace optc
