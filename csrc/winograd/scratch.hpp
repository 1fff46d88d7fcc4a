// Working memory of one call: uninitialised, starting on a cache line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace nybble {

template <class T>
class Scratch {
public:
  explicit Scratch(int64_t count) : bytes_(new uint8_t[size_t(count) * sizeof(T) + 64]) {
    const auto at = reinterpret_cast<uintptr_t>(bytes_.get());
    data_ = reinterpret_cast<T*>((at + 63) / 64 * 64);
  }
  T* data() const { return data_; }

private:
  std::unique_ptr<uint8_t[]> bytes_;
  T* data_;
};

} // namespace nybble
