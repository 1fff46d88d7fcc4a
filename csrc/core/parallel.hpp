// Loops over work items on torch's own threads.
//
// The module is loaded after torch and asks for the same libgomp, so its parallel regions run on
// torch's pool. The caller passes the number of threads (torch.get_num_threads()); results may not
// depend on it: integer sums may be split anywhere, float sums only as their definition says.
// Work items must not throw: an exception cannot leave a parallel region. Allocate before.
#pragma once

#include <cstdint>

namespace nybble {

// More threads than this are never asked for: libgomp ends the process where it cannot make them.
constexpr int kMostThreads = 256;

// Calls body(i) for every i in [0, items), at most `threads` at a time; small loops stay on the
// calling thread.
template <class Body>
void parallel_for(int threads, int64_t items, const Body& body) {
  if (threads > items) threads = int(items);
  if (threads > kMostThreads) threads = kMostThreads;
  if (threads <= 1 || items <= 1) {
    for (int64_t i = 0; i < items; ++i)
      body(i);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
#endif
  for (int64_t i = 0; i < items; ++i)
    body(i);
}

} // namespace nybble
