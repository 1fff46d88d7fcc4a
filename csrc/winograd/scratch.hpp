// Working memory of one call: uninitialised, starting on a cache line.
//
// A call needs some megabytes, and fresh pages cost more than the transforms that fill them, so
// each thread keeps one arena, as large as its largest call so far (at most kArenaLimit; what does
// not fit comes from the heap). It belongs to the thread that made the call: nothing is shared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace nybble {

constexpr size_t kArenaLimit = size_t(32) << 20;

struct Arena {
  std::unique_ptr<uint8_t[]> memory;
  size_t size = 0, used = 0;
  size_t live = 0, most = 0; // bytes of all scratch arrays of this thread, now and at most
  int64_t users = 0;         // arrays that lie in `memory`
};

inline Arena& arena_of_this_thread() {
  thread_local Arena arena;
  return arena;
}

template <class T>
class Scratch {
public:
  explicit Scratch(int64_t count) : bytes_((size_t(count) * sizeof(T) + 127) / 64 * 64) {
    Arena& arena = arena_of_this_thread();
    const size_t wanted = arena.most < kArenaLimit ? arena.most : kArenaLimit;
    if (arena.users == 0 && wanted > arena.size) {
      arena.size = 0;
      arena.memory.reset(); // before the new one, not beside it
      arena.memory.reset(new uint8_t[wanted]);
      arena.size = wanted;
    }
    uint8_t* at;
    if (bytes_ <= arena.size - arena.used) {
      at = arena.memory.get() + arena.used;
      arena.used += bytes_;
      ++arena.users;
      shared_ = true;
    } else {
      own_.reset(new uint8_t[bytes_]);
      at = own_.get();
    }
    arena.live += bytes_;
    arena.most = arena.live > arena.most ? arena.live : arena.most;
    data_ = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(at) + 63) / 64 * 64);
  }
  Scratch(Scratch&& other) noexcept
      : own_(std::move(other.own_)), data_(other.data_), bytes_(other.bytes_),
        shared_(other.shared_) {
    other.bytes_ = 0;
    other.shared_ = false;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch() {
    Arena& arena = arena_of_this_thread();
    arena.live -= bytes_;
    if (shared_ && --arena.users == 0) arena.used = 0;
  }
  T* data() const { return data_; }

private:
  std::unique_ptr<uint8_t[]> own_;
  T* data_ = nullptr;
  size_t bytes_;
  bool shared_ = false;
};

} // namespace nybble
