// What `Sharing` decides, call by call: prints one letter for each, s(hared) or a(lone).
#include <cstdio>

#include "sharing.h"

using optc::Sharing;

namespace {

constexpr int64_t kNear = 200, kFar = 1500;

// Calls of a layer whose other threads begin so late, and that takes so long alone.
void calls(Sharing& sharing, int count, int64_t late, int64_t tiles, int64_t alone_of_tile) {
  for (int i = 0; i < count; ++i) {
    const Sharing::Choice choice = sharing.next(tiles);
    if (choice.measure && choice.share) sharing.began_after(late, true);
    if (choice.measure && !choice.share) sharing.took_alone(alone_of_tile * tiles, tiles);
    std::putchar(choice.share ? 's' : 'a');
  }
  std::putchar('\n');
}

}  // namespace

int main() {
  Sharing small, large;
  calls(small, 160, kNear, 4, 3000);
  calls(small, 160, kFar, 4, 3000);
  calls(small, 160, kNear, 4, 3000);
  calls(large, 160, kFar, 16, 3000);
  calls(large, 16, kFar, 4, 3000);
}
