#include "hybrid_form.h"

#include <algorithm>
#include <cmath>

namespace optc {
namespace {

// Time of the second stage of a tile in nanoseconds of a Zen 4 with AVX-512: of a stored pair, of a
// pair in the dense form, of four elements; of a load of T for every doubling of T beyond the
// first-level cache; and of a byte of weights beyond what the second-level cache holds of them.
// Fitted to layers of 64 to 512 channels on images of 32x32 to 4x4 with 4 and 8 basis kernels, at
// 100 to 10 % of pairs and 30 and 7 % of elements.
struct Costs {
  double vectors, pair, dense, four;
};
constexpr Costs kWide = {4, 1.47, 1.1, 2.05};     // tiles of several vectors
constexpr Costs kNarrow = {1, 0.51, 0.18, 1.26};  // tiles of one
constexpr double kFarLoad = 0.15, kFarByte = 0.1;
constexpr double kFirstCache = 32 << 10, kSecondCache = 512 << 10;  // bytes for T and for weights

double cost(Form form, const std::vector<Term>& terms, const Counts& counts, const Costs& costs) {
  const double doublings =
      std::log2(std::max(1.0, double(counts.quads) * kQuadBytes * costs.vectors / kFirstCache));
  const double far_loads = kFarLoad * costs.vectors * doublings;
  const auto all = [](double count, double each, size_t bytes) {
    return count * each + kFarByte * std::max(0.0, count * double(bytes) - kSecondCache);
  };
  if (form == Form::kDense) return all(double(counts.pairs), costs.dense, sizeof(uint32_t));
  size_t pairs = 0, fours = 0, in_row = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    const bool first = i == 0 || terms[i].k != terms[i - 1].k;
    in_row = first ? 0 : in_row + 1;
    pairs += first || terms[i].quad != terms[i - 1].quad;
    fours += in_row % kQuad == 0;
  }
  return form == Form::kPairs
             ? all(double(pairs), costs.pair + far_loads, sizeof(PairWeight))
             : all(double(fours), costs.four + far_loads, sizeof(FourWeights));
}

}  // namespace

bool can_have(Form form, int64_t K, int64_t group, const Counts& counts) {
  if (form == Form::kDense) return K / group % kDenseRows == 0;
  return form == Form::kPairs || counts.quads * kQuad <= kMostRows;
}

Form fastest(const std::vector<Term>& terms, int64_t K, int64_t group, const Counts& counts,
             bool narrow) {
  const Costs& costs = narrow ? kNarrow : kWide;
  Form best = Form::kPairs;
  for (const Form form : {Form::kDense, Form::kElements}) {
    if (can_have(form, K, group, counts) &&
        cost(form, terms, counts, costs) < cost(best, terms, counts, costs)) {
      best = form;
    }
  }
  return best;
}

}  // namespace optc
