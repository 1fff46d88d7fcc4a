// Scratch memory aligned to cache lines, with room behind the end for reads of a whole register.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/pool.hpp"

namespace nybble {

class Buffer {
public:
  Buffer() = default;
  explicit Buffer(int64_t bytes) : memory_(std::size_t(bytes + kSlack)) {
    for (int64_t i = 0; i < kSlack; ++i)
      memory_.data()[bytes + i] = 0;
  }
  uint8_t* data() const { return memory_.data(); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data());
  }

private:
  static constexpr int64_t kSlack = 64;
  Memory memory_;
};

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

} // namespace nybble
