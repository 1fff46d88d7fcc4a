// Scratch memory aligned to cache lines, with room behind the end for reads of a whole register.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace nybble {

class Buffer {
public:
  Buffer() = default;
  explicit Buffer(int64_t bytes)
      : data_(static_cast<uint8_t*>(::operator new(std::size_t(bytes + kSlack), kAlign))) {
    for (int64_t i = 0; i < kSlack; ++i)
      data_[bytes + i] = 0;
  }
  Buffer(Buffer&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  Buffer& operator=(Buffer&& other) noexcept {
    uint8_t* mine = data_;
    data_ = other.data_;
    other.data_ = mine;
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) ::operator delete(data_, kAlign);
  }
  uint8_t* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

private:
  static constexpr int64_t kSlack = 64;
  static constexpr std::align_val_t kAlign{64};
  uint8_t* data_ = nullptr;
};

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

} // namespace nybble
