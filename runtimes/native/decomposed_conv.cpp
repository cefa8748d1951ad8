#include "decomposed_conv.h"

#include <algorithm>
#include <atomic>
#include <new>

namespace optc {
namespace {

constexpr size_t kCacheBytes = 32 << 10;  // of T that stays in the first-level cache
constexpr double kFewProducts = 192;      // vectors to add to an output channel: too few for a pass
constexpr int64_t kFarBytes = 16 << 20;   // of X and Y of a sample: more than nearby caches hold
constexpr int64_t kTilesWanted = 4;       // to keep threads busy, if two vectors each are left
constexpr size_t kChunks = 16;            // pieces of a tile that threads share

thread_local Scratch scratch;

}  // namespace

// One call: shapes, pointers and the cut into tiles.
struct DecomposedConv::Run {
  const DecomposedConv& op;
  const ImagePlan& plan;
  const float* x;
  const float* residual;
  float* y;
  ptrdiff_t x_plane, y_plane;  // elements of one channel
  int64_t vectors;             // of all samples
  int64_t tiles;               // of nearly equal size
  int tile_vectors;            // of the largest
  bool far;                    // see Tile
  float* all_t = nullptr;      // (rows of T, vectors, lanes), when threads share the only tile
  size_t rows_of_pass = 0, most_rows = 0;
  std::atomic<bool> out_of_memory{false};

  size_t row_floats() const { return size_t(tile_vectors) * size_t(op.kernels_.lanes); }

  Tile tile(size_t index) const {
    const int lanes = op.kernels_.lanes;
    const int64_t first = vectors * int64_t(index) / tiles;
    Tile tile = {};
    tile.vectors = int(vectors * int64_t(index + 1) / tiles - first);
    for (int v = 0; v < tile.vectors; ++v) {
      const int64_t sample = (first + v) / plan.vectors, in_sample = (first + v) % plan.vectors;
      const int64_t pixel = in_sample * lanes;
      tile.input[v] = sample * op.weights_.C * x_plane + plan.vector_input[size_t(in_sample)];
      tile.output[v] = sample * op.weights_.K * y_plane + pixel;
      tile.pixels[v] = int(std::min<int64_t>(lanes, y_plane - pixel));
      tile.mask[v] = &plan.mask[size_t(in_sample) * plan.tap_offset.size()];
      if (plan.lanes != kNeighbours) {
        tile.lane_offset[v] = &plan.lane_offset[size_t(in_sample * lanes)];
      }
    }
    tile.lanes = plan.lanes;
    tile.far = far;
    return tile;
  }

  // A pass computes as many rows of T as the first-level cache holds, or more where these have
  // few coefficients: every pass reads and writes all of Y.
  void plan_passes() {
    const std::vector<Block>& blocks = op.weights_.blocks;
    const size_t cached = kCacheBytes / (row_floats() * sizeof(float));
    rows_of_pass = std::max(cached, size_t(kFewProducts / tile_vectors / op.weights_.density));
    for (size_t b = 0, end; b + 1 < blocks.size(); b = end) {
      end = pass_end(b);
      most_rows = std::max<size_t>(most_rows, blocks[end].first_row - blocks[b].first_row);
    }
  }

  // Blocks [b, end) that make a pass.
  size_t pass_end(size_t b) const {
    const std::vector<Block>& blocks = op.weights_.blocks;
    size_t end = b + 1;
    while (end + 1 < blocks.size() &&
           blocks[end + 1].first_row - blocks[b].first_row <= rows_of_pass) {
      ++end;
    }
    return end;
  }

  // Every tile by itself: in passes over some rows of T, responses and then all output channels.
  void by_tile(ThreadPool& pool) {
    pool.parallel_for(
        size_t(tiles), [](void* self, size_t i) { static_cast<Run*>(self)->whole_tile(i); }, this);
    if (out_of_memory) throw std::bad_alloc();
  }

  void whole_tile(size_t index) {
    const std::vector<Block>& blocks = op.weights_.blocks;
    float* t = static_cast<float*>(scratch.reserve(most_rows * row_floats() * sizeof(float)));
    if (t == nullptr) {
      out_of_memory = true;
      return;
    }
    const Tile own = tile(index);
    for (size_t b = 0, end; b + 1 < blocks.size(); b = end) {
      end = pass_end(b);
      responses(own, blocks[b].channel_begin, blocks[end].channel_begin, t, blocks[b].first_row);
      rows(own, b, end, t, 0, size_t(op.weights_.K));
    }
  }

  // First all responses of the only tile, then all output channels: threads share the tile.
  void by_stage(ThreadPool& pool) {
    all_t = static_cast<float*>(
        scratch.reserve(op.weights_.rows() * row_floats() * sizeof(float)));
    if (all_t == nullptr) throw std::bad_alloc();
    pool.parallel_for(
        kChunks, [](void* self, size_t i) { static_cast<Run*>(self)->responses_of_chunk(i); },
        this);
    pool.parallel_for(
        kChunks, [](void* self, size_t i) { static_cast<Run*>(self)->rows_of_chunk(i); }, this);
  }

  void responses_of_chunk(size_t chunk) {
    const size_t n = op.weights_.channels.size();
    const size_t begin = n * chunk / kChunks, end = n * (chunk + 1) / kChunks;
    if (begin < end) responses(tile(0), begin, end, all_t, 0);
  }

  void rows_of_chunk(size_t chunk) {
    const size_t K = size_t(op.weights_.K);
    const size_t begin = K * chunk / kChunks, end = K * (chunk + 1) / kChunks;
    const Tile own = tile(0);
    const std::vector<Block>& blocks = op.weights_.blocks;
    for (size_t b = 0, next; b + 1 < blocks.size(); b = next) {
      next = pass_end(b);
      rows(own, b, next, all_t + size_t(blocks[b].first_row) * row_floats(), begin, end);
    }
  }

  // Rows of T of some channels; t holds row `t_row` first.
  void responses(const Tile& tile, size_t channel_begin, size_t channel_end, float* t,
                 uint32_t t_row) const {
    const PackedWeights& w = op.weights_;
    op.kernels_.responses({&tile, {int(plan.tap_offset.size()), plan.tap_offset.data(),
                                   int(op.geometry_.kernel[1])},
                           x,
                           x_plane, w.channels.data() + channel_begin,
                           channel_end - channel_begin, w.row_basis.data(), w.basis.data(), t,
                           t_row});
  }

  // Adds the part of blocks [b, end) to output channels [k_begin, k_end); t holds their rows.
  void rows(const Tile& tile, size_t b, size_t end, const float* t, size_t k_begin,
            size_t k_end) const {
    const PackedWeights& w = op.weights_;
    const uint32_t* begin = w.block_begin.data();
    op.kernels_.rows({&tile, t, w.blocks[b].first_row, w.coefficients.data(), begin + b,
                      begin + end, w.blocks.size(), k_begin, k_end, y, y_plane, w.bias.data(),
                      residual, b == 0, end + 1 == w.blocks.size(), op.clamp_, op.lower_,
                      op.upper_});
  }
};

DecomposedConv::DecomposedConv(const Attributes& attributes, const Constants& constants,
                               const Kernels& kernels)
    : geometry_(read_geometry(attributes, constants.basis.shape)),
      weights_(pack_weights(attributes, constants)),
      kernels_(kernels),
      clamp_(attributes.clamp),
      lower_(attributes.lower),
      upper_(attributes.upper) {}

std::vector<int64_t> DecomposedConv::output_shape(const std::vector<int64_t>& x_shape) const {
  return optc::output_shape(geometry_, weights_.C, weights_.K, x_shape);
}

void DecomposedConv::run(const float* x, const std::vector<int64_t>& x_shape,
                         const float* residual, float* y, ThreadPool& pool) const {
  const int64_t height = geometry_.rank == 2 ? x_shape[2] : 1, width = x_shape.back();
  const std::shared_ptr<const ImagePlan> plan =
      plans_.get(height, width,
                 [&] { return make_plan(geometry_, height, width, kernels_.lanes); });
  const int64_t vectors = x_shape[0] * plan->vectors;
  if (vectors == 0) return;
  const int64_t fewest = (vectors + kMaxVectors - 1) / kMaxVectors;
  const int64_t tiles = std::max(fewest, std::min(kTilesWanted, vectors / 2));
  Run run = {*this, *plan, x, residual, y, ptrdiff_t(height * width),
             ptrdiff_t(plan->output[0] * plan->output[1]), vectors, tiles,
             int((vectors + tiles - 1) / tiles), false};
  const int64_t elements = weights_.C * run.x_plane + weights_.K * run.y_plane;
  run.far = elements > kFarBytes / int64_t(sizeof(float));
  run.plan_passes();
  tiles == 1 ? run.by_stage(pool) : run.by_tile(pool);
}

}  // namespace optc
