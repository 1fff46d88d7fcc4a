// Memory that stays with the process: large results, codes and working memory are taken from it.
//
// A training step asks for the same blocks again and again, some of them for a moment (an output, a
// gradient, scratch) and some until its backward pass (codes, masks). malloc puts both into one
// heap, where a small block that is kept pins the space of the large ones around it, and blocks
// that it maps afresh cost a page fault every 4 KiB. So they have a pool of their own: mapped
// regions, free ranges joined with their neighbours; what is kept is taken from the high end, where
// systems put the first region, and what passes from the low end, so that neither breaks up the
// other's space.
//
// Not done: giving memory back by itself. `release` does it, as torch.cuda.empty_cache does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace nybble {

class Pool {
public:
  enum class Kind { passing, kept };

  // `region`: mappings are multiples of it; of a page that was never used there is no memory.
  explicit Pool(size_t region) : region_(region) {}

  // At least `bytes` bytes, aligned to a page; throws std::bad_alloc where the system has no more.
  void* take(size_t bytes, Kind kind);
  // Give back what `take` gave; any thread may.
  void give(void* block);
  // Hand the free regions back to the system; returns how many bytes they were.
  size_t release();

  struct Use {
    size_t mapped, taken, most_taken;
  };
  Use use();

private:
  using Ranges = std::map<uintptr_t, size_t>; // start -> size, no two of them adjacent

  Ranges::iterator find(size_t size, Kind kind);
  void add_free(uintptr_t start, size_t size);

  size_t region_;
  std::mutex mutex_;
  Ranges free_;
  std::unordered_map<uintptr_t, size_t> taken_;
  Use use_{0, 0, 0};
  uintptr_t lowest_ = 0; // where the newest region begins
};

// The pool of this process. Never destroyed: tensors may outlive every static object.
Pool& pool();
// Another one for what outlives a step's forward and backward, as the gradients of weights do.
Pool& lasting_pool();

// Working memory of one call, uninitialised and on a cache line; large ones come from the pool.
class Memory {
public:
  Memory() = default;
  explicit Memory(size_t bytes);
  Memory(Memory&& other) noexcept : data_(other.data_), pooled_(other.pooled_) {
    other.data_ = nullptr;
  }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(pooled_, other.pooled_);
    return *this;
  }
  ~Memory();
  uint8_t* data() const { return data_; }

private:
  uint8_t* data_ = nullptr;
  bool pooled_ = false;
};

} // namespace nybble
