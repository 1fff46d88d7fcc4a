// Working memory of one call: `count` elements, uninitialised, starting on a cache line.
#pragma once

#include <cstdint>

#include "core/pool.hpp"

namespace nybble {

template <class T>
class Array {
public:
  explicit Array(int64_t count) : memory_(size_t(count) * sizeof(T) + 64) {}
  T* data() const { return reinterpret_cast<T*>(memory_.data()); }

private:
  Memory memory_;
};

} // namespace nybble
