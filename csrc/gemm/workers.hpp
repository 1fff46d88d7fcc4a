// Items of work for threads that own scratch: body(worker, item), each item once, the next free
// worker takes the next item.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/parallel.hpp"
#include "core/pool.hpp"

namespace nybble {

template <class Body>
void work(int workers, int64_t items, const Body& body) {
  std::atomic<int64_t> next{0};
  const int many = int(items < workers ? items : workers);
  parallel_for(many, many, [&](int64_t worker) {
    for (int64_t i = next.fetch_add(1); i < items; i = next.fetch_add(1))
      body(int(worker), i);
  });
}

// Memory on a cache line, handed out in pieces on cache lines. `piece` adds up sizes before
// `reserve`, and gives addresses after it, in the same order.
class Scratch {
public:
  template <class T>
  T* piece(int64_t count) {
    const size_t at = used_;
    used_ += (size_t(count) * sizeof(T) + 63) / 64 * 64;
    return base_.data() == nullptr ? nullptr : reinterpret_cast<T*>(base_.data() + at);
  }
  void reserve() {
    base_ = Memory(used_ + 64);
    used_ = 0;
  }

private:
  Memory base_;
  size_t used_ = 0;
};

inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t pieces(int64_t n, int64_t of) { return (n + of - 1) / of; }

// The size of equal pieces, each a multiple of `to` and at most `most`.
inline int64_t even(int64_t n, int64_t most, int64_t to) {
  const int64_t size = up(pieces(n, n <= most ? 1 : pieces(n, most)), to);
  return size < most ? size : most;
}

} // namespace nybble
