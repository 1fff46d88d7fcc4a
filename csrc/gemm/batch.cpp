// A product for each index of a batch: attention's heads. Many small ones are shared by the
// threads, one thread a product; few large ones are cut inside.
#include <atomic>
#include <exception>

#include "core/parallel.hpp"
#include "gemm/gemm.hpp"

namespace nybble {

void gemm_batch(const Batch& batch, Vector scale_a, Vector scale_b) {
  const Vector none{nullptr, 0};
  const auto one = [&](int64_t i, int threads) {
    Product p = batch.first;
    p.a.packed += i * batch.a_step;
    p.b.packed += i * batch.b_step;
    p.out += i * batch.out_step;
    p.threads = threads;
    gemm(p, scale_a, scale_b, none);
  };
  if (batch.out_step == 0) return;
  if (batch.count < batch.first.threads) {
    for (int64_t i = 0; i < batch.count; ++i)
      one(i, batch.first.threads);
    return;
  }
  // An exception may not leave a parallel region: the first one is thrown behind it.
  std::atomic<bool> failed{false};
  std::exception_ptr first;
  parallel_for(batch.first.threads, batch.count, [&](int64_t i) {
    if (failed) return;
    try {
      one(i, 1);
    } catch (...) {
      if (!failed.exchange(true)) first = std::current_exception();
    }
  });
  if (failed) std::rethrow_exception(first);
}

} // namespace nybble
