#include "hybrid_conv.h"

#include <algorithm>
#include <atomic>
#include <new>

namespace optc {
namespace {

constexpr int64_t kFewTiles = 4;  // tiles that do not keep threads busy
constexpr size_t kChunks = 8;     // pieces of a tile where threads share tiles

thread_local Scratch scratch;         // T, and windows where a tile is a thread's own
thread_local Scratch window_scratch;  // windows where threads share T

}  // namespace

// One call: shapes, pointers and the cut into tiles.
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
  uint8_t* all_t = nullptr;    // (tiles, most bytes of T), when threads share tiles
  std::atomic<bool> out_of_memory{false};

  int64_t units() const { return (samples + plan.samples - 1) / plan.samples; }
  int64_t tiles() const { return units() * int64_t(plan.tiles.size()); }
  size_t most_t_bytes() const {
    return w.quads.size() * size_t(kTileVectors * kQuadBytes);
  }
  size_t window_bytes() const { return 2 * plan.most_windows * size_t(kWindow); }
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
    tile.n_windows = planned.n_windows[tile.vectors];
    tile.use = planned.use.data();
    return tile;
  }

  // Every tile by itself: responses and then all output channels.
  void by_tile(ThreadPool& pool) {
    pool.parallel_for(
        size_t(tiles()), [](void* self, size_t i) { static_cast<Run*>(self)->whole_tile(i); },
        this);
    if (out_of_memory) throw std::bad_alloc();
  }

  void whole_tile(size_t index) {
    uint8_t* t = static_cast<uint8_t*>(scratch.reserve(most_t_bytes() + window_bytes()));
    if (t == nullptr) {
      out_of_memory = true;
      return;
    }
    const HybridTile own = tile(index);
    if (own.vectors == 0) return;
    responses(own, x_of(index), 0, w.quads.size(), t, t + most_t_bytes());
    rows(own, t, 0, size_t(w.K));
  }

  // First all responses of all tiles, then all output channels: threads share a tile.
  void by_stage(ThreadPool& pool) {
    all_t = static_cast<uint8_t*>(scratch.reserve(most_t_bytes() * size_t(tiles())));
    if (all_t == nullptr) throw std::bad_alloc();
    const size_t pieces = size_t(tiles()) * kChunks;
    pool.parallel_for(
        pieces, [](void* self, size_t i) { static_cast<Run*>(self)->responses_of_chunk(i); }, this);
    if (out_of_memory) throw std::bad_alloc();
    pool.parallel_for(
        pieces, [](void* self, size_t i) { static_cast<Run*>(self)->rows_of_chunk(i); }, this);
  }

  void responses_of_chunk(size_t i) {
    const size_t index = i / kChunks, chunk = i % kChunks, n = w.quads.size();
    const size_t begin = n * chunk / kChunks, end = n * (chunk + 1) / kChunks;
    const HybridTile own = tile(index);
    if (begin == end || own.vectors == 0) return;
    uint8_t* windows = static_cast<uint8_t*>(window_scratch.reserve(window_bytes()));
    if (windows == nullptr) {
      out_of_memory = true;
      return;
    }
    uint8_t* t = all_t + index * most_t_bytes() + begin * size_t(own.vectors * kQuadBytes);
    responses(own, x_of(index), begin, end, t, windows);
  }

  void rows_of_chunk(size_t i) {
    const size_t index = i / kChunks, chunk = i % kChunks;
    const size_t fours = (size_t(w.K) + kDenseRows - 1) / kDenseRows;
    const size_t begin = fours * chunk / kChunks * kDenseRows;
    const size_t end = std::min(fours * (chunk + 1) / kChunks * kDenseRows, size_t(w.K));
    const HybridTile own = tile(index);
    if (begin < end && own.vectors > 0) rows(own, all_t + index * most_t_bytes(), begin, end);
  }

  void responses(const HybridTile& tile, const uint8_t* of_tile, size_t begin, size_t end,
                 uint8_t* t, uint8_t* windows) const {
    const HybridResponseArgs args = {
        &tile, of_tile, x, x_end, x_plane, w.x_zero, w.quads.data() + begin, end - begin,
        plan.steps, w.basis.data(), w.start_of_r.data(), w.shift.data(), windows, t};
    w.form == Form::kSigns ? op.kernels_.sign_responses(args) : op.kernels_.pair_responses(args);
  }

  void rows(const HybridTile& tile, const uint8_t* t, size_t k_begin, size_t k_end) const {
    const size_t k_group = size_t(w.K) / size_t(op.group_);
    const HybridRowArgs args = {
        &tile, t, k_begin, k_end, w.order.data(), w.pairs.data(), w.dense.data(),
        w.runs.data(), w.signs.data(), w.begin.data(), k_group, w.quads_per_group, &requantise,
        y, y_plane, residual};
    switch (w.form) {
      case Form::kPairs: return op.kernels_.pair_rows(args);
      case Form::kDense: return op.kernels_.dense_rows(args);
      case Form::kSigns: return op.kernels_.sign_rows(args);
    }
  }
};

HybridConv::HybridConv(const HybridAttributes& attributes, const HybridConstants& constants,
                       const HybridKernels& kernels, const Form* form)
    : geometry_(read_geometry(attributes.conv, constants.basis.shape)),
      weights_(pack_hybrid_weights(attributes, constants, kernels.offset, false, form)),
      group_(attributes.conv.group),
      kernels_(kernels) {
  auto narrow = std::make_unique<HybridWeights>(
      pack_hybrid_weights(attributes, constants, kernels.offset, true, form));
  if (narrow->form != weights_.form) narrow_ = std::move(narrow);
}

std::vector<int64_t> HybridConv::output_shape(const std::vector<int64_t>& x_shape) const {
  return optc::output_shape(geometry_, weights_.C, weights_.K, x_shape);
}

std::shared_ptr<const HybridPlan> HybridConv::plan_of(int64_t height, int64_t width) const {
  const std::lock_guard<std::mutex> lock(plan_lock_);
  if (plan_ == nullptr || plan_->size[0] != height || plan_->size[1] != width) {
    plan_ = std::make_shared<HybridPlan>(make_hybrid_plan(geometry_, height, width, weights_.C));
  }
  return plan_;
}

void HybridConv::run(const uint8_t* x, const std::vector<int64_t>& x_shape,
                     const uint8_t* residual, uint8_t* y, ThreadPool& pool) const {
  const int64_t height = geometry_.rank == 2 ? x_shape[2] : 1, width = x_shape.back();
  if (x_shape[0] == 0) return;
  const std::shared_ptr<const HybridPlan> plan = plan_of(height, width);
  const bool is_narrow = x_shape[0] == 1 && plan->samples > kTileVectors / 2;  // of one vector
  const HybridWeights& weights = is_narrow && narrow_ != nullptr ? *narrow_ : weights_;
  const uint8_t* x_end = x + x_shape[0] * weights_.C * height * width;
  Run run = {*this, *plan, weights, weights.requantise(), x, x_end, residual, y, x_shape[0],
             ptrdiff_t(height * width), ptrdiff_t(plan->output[0] * plan->output[1])};
  run.tiles() < kFewTiles ? run.by_stage(pool) : run.by_tile(pool);
}

}  // namespace optc
