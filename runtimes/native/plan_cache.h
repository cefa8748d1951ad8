// Plans of the image sizes that were seen last: several may take turns, on several threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace optc {

// Plan has a member `size`, {height, width}.
template <typename Plan>
class PlanCache {
 public:
  // The plan of a size; make(), which returns one, is called without holding the lock.
  template <typename Make>
  std::shared_ptr<const Plan> get(int64_t height, int64_t width, const Make& make) {
    if (auto found = recall(height, width)) return found;
    auto made = std::make_shared<const Plan>(make());
    const std::lock_guard<std::mutex> lock(lock_);
    plans_.insert(plans_.begin(), made);
    if (plans_.size() > kSizes) plans_.pop_back();
    return made;
  }

 private:
  static constexpr size_t kSizes = 8;

  std::shared_ptr<const Plan> recall(int64_t height, int64_t width) {
    const std::lock_guard<std::mutex> lock(lock_);
    for (size_t i = 0; i < plans_.size(); ++i) {
      if (plans_[i]->size[0] != height || plans_[i]->size[1] != width) continue;
      std::rotate(plans_.begin(), plans_.begin() + ptrdiff_t(i), plans_.begin() + ptrdiff_t(i) + 1);
      return plans_.front();
    }
    return nullptr;
  }

  std::mutex lock_;
  std::vector<std::shared_ptr<const Plan>> plans_;  // the last one used first
};

}  // namespace optc
