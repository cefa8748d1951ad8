// Where the responses of hybrid_responses_impl.h find the bytes of X; included before it, and with
// the same operations.

constexpr ptrdiff_t kLine = 64;    // bytes
constexpr ptrdiff_t kNear = 1024;  // bytes of a channel that are worth it

// A window where it does not lie in X entirely, or not within 64 bytes.
inline void fill_at_edge(const HybridResponseArgs& a, const Window& window, const uint8_t* p,
                         uint8_t* out) {
  if (window.table == nullptr) {
    for (int i = 0; i < kWindow; ++i) {
      out[i] = window.scattered[i] < 0 ? a.zero_point : p[window.scattered[i]];
    }
    return;
  }
  uint8_t copy[kWindow] = {};
  for (int i = 0; i < kWindow; ++i) {
    if (p + i >= a.x_begin && p + i < a.x_end) copy[i] = p[i];
  }
  store_bytes(out, permute(copy, window.table, make_zero(a.zero_point)));
}

// Finds the windows of a channel.
class Windows {
 public:
  explicit Windows(const HybridResponseArgs& a)
      : a_(a), zero_(make_zero(a.zero_point)), begin_(a.tile->windows),
        end_(begin_ + a.tile->n_windows), before_(a.x - a.x_begin + a.tile->low),
        after_(a.x_end - a.x - a.tile->high - kWindow) {}

  // Begins to fetch what the windows of a quad show: another core may have written it.
  void prefetch(const Quad& quad) const {
    const ptrdiff_t first = a_.tile->x_first, last = a_.tile->x_last;
    if (last - first > kNear) return;
    for (uint32_t i = 0; i < uint32_t(a_.channels_of_quad); ++i) {
      const uint8_t* x = of(channel_of(quad, i));
      for (ptrdiff_t at = first; at < last; at += kLine) __builtin_prefetch(x + at);
      __builtin_prefetch(x + last);
    }
  }

  // Whether every window of a channel is within 64 bytes that can be read.
  bool are_inside(uint32_t channel) const {
    const ptrdiff_t at = ptrdiff_t(channel) * a_.plane;
    return !a_.tile->scattered && before_ + at >= 0 && at <= after_;
  }

  void fill(uint32_t channel, uint8_t* out) const {
    const uint8_t* x = of(channel);
    if (!are_inside(channel)) {
      for (const Window* window = begin_; window < end_; ++window, out += kWindow) {
        fill_at_edge(a_, *window, x + window->offset, out);
      }
      return;
    }
    const Zero zero = zero_;
    for (const Window *window = begin_, *end = end_; window < end; ++window, out += kWindow) {
      store_bytes(out, permute(x + window->offset, window->table, zero));
    }
  }

  // One of the four channels of a quad. What is missing to the last four is the last again: its
  // coefficients are zero.
  uint32_t channel_of(const Quad& quad, uint32_t i) const {
    return quad.channel + i < a_.channels ? quad.channel + i : a_.channels - 1;
  }

  void fill_four(const Quad& quad, uint8_t* out) const {
    for (uint32_t i = 0; i < kQuad; ++i, out += (end_ - begin_) * kWindow) {
      fill(channel_of(quad, i), out);
    }
  }

  const uint8_t* of(uint32_t channel) const { return a_.x + ptrdiff_t(channel) * a_.plane; }

 private:
  const HybridResponseArgs& a_;
  const Zero zero_;
  const Window *begin_, *end_;
  const ptrdiff_t before_, after_;  // bytes of X before and behind what channel 0 reads
};

// Where responses find their pixels: at(i, m) are those of step i % steps of vector i / steps, for
// the m-th response of a quad. From windows of one channel, or of four:
template <bool kFour>
struct Filled {
  static constexpr bool is_four = kFour;
  const uint8_t* windows;
  const uint32_t* use;
  size_t n_windows;
  Pixels at(size_t i, int m) const {
    const size_t window = use[i] + (kFour ? size_t(m) * n_windows : 0);
    return make_pixels(load_bytes(windows + window * kWindow));
  }
};

// From X itself.
template <int S>
class Direct {
 public:
  static constexpr bool is_four = false;
  explicit Direct(const HybridResponseArgs& a) : zero_(make_zero(a.zero_point)) {
    for (int i = 0; i < a.tile->vectors * S; ++i) windows_[i] = a.tile->windows[a.tile->use[i]];
  }
  Pixels at(size_t i, int) const {
    return make_pixels(permute(x + windows_[i].offset, windows_[i].table, zero_));
  }

  const uint8_t* x = nullptr;  // of the channel

 private:
  const Zero zero_;
  Window windows_[S ? kTileVectors * S : 1];
};
