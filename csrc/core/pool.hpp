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
// Where it is broken up all the same, the pages of the free ranges are moved to new addresses, one
// after another (Linux's mremap: page tables change, no byte is copied). Addresses are plenty, and
// memory is not: the pool so never holds much more than what was in use at one moment.
//
// Not done: giving memory back by itself. `release` does it, as torch.cuda.empty_cache does. Moving
// pages on other systems: there a range that does not fit is mapped anew.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <unordered_set>
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
  // Whether a block that is taken begins at `block`, and `tag` is what `tag` said of it.
  bool owns(const void* block, uintptr_t tag);
  // Remember a number with a block: which object of the caller's it belongs to.
  void tag(const void* block, uintptr_t tag);
  // Take the memory of a block that nobody will read again, before it is given back: its addresses
  // stay good, and hold zeros. Does nothing where that is no block, or the system cannot do it.
  void hollow(const void* block);
  // Hand the free regions back to the system; returns how many bytes they were.
  size_t release();

  struct Use {
    size_t mapped, taken, most_taken, moved; // bytes; `moved`: by joining free ranges
  };
  Use use();

private:
  using Ranges = std::map<uintptr_t, size_t>; // start -> size, no two of them adjacent

  Ranges::iterator find(size_t size, Kind kind);
  void add_free(uintptr_t start, size_t size);
  void map_more(size_t size);
  size_t worth_moving() const;
  void unmap_free(uintptr_t start, size_t bytes);
  void join(size_t size);
  [[noreturn]] void fail(uintptr_t target, size_t done, size_t size);

  size_t region_;
  std::mutex mutex_;
  Ranges free_;
  std::unordered_map<uintptr_t, size_t> taken_;
  std::unordered_map<uintptr_t, uintptr_t> tags_;
  std::unordered_set<uintptr_t> hollow_; // those of the blocks taken that have no memory any more
  // Where a mapping of the system's begins: a call of mremap takes pages of one mapping only.
  std::set<uintptr_t> seams_;
  Use use_{0, 0, 0, 0};
  uintptr_t lowest_ = 0; // where the newest region begins
};

// The pool of this process. Never destroyed: tensors may outlive every static object.
Pool& pool();

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
