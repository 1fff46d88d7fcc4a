// What a family of tests is given, and how it compares.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "golden.hpp"
#include "memory.hpp"
#include "quantize/streams.hpp"

namespace nybble_tests {

// Memory of exactly `count` elements, filled with a pattern that no result has by chance.
template <class T>
class Output {
public:
  explicit Output(int64_t count)
      : count_(count), data_(allocate(count * int64_t(sizeof(T)), current_place)) {
    if (count > 0) std::memset(data_.get(), 0xA5, size_t(count) * sizeof(T));
  }
  T* data() { return static_cast<T*>(data_.get()); }
  int64_t count() const { return count_; }

private:
  int64_t count_;
  std::shared_ptr<void> data_;
};

// Throws where an element of `got` has other bits than the expected one. Any NaN equals any NaN:
// which bits an operation gives to a new NaN is the processor's choice.
template <class T>
void expect(const Case& one, const std::string& key, const T* got, int64_t count) {
  const T* want = one.data<T>(key);
  if (one.array(key).count != count)
    throw std::runtime_error(key + " has " + std::to_string(count) + " elements, expected " +
                             std::to_string(one.array(key).count));
  for (int64_t i = 0; i < count; ++i) {
    if (got[i] != got[i] && want[i] != want[i]) continue;
    if (std::memcmp(got + i, want + i, sizeof(T)) != 0)
      throw std::runtime_error(key + "[" + std::to_string(i) + "] is " + std::to_string(got[i]) +
                               ", expected " + std::to_string(want[i]));
  }
}

template <class T>
void expect(const Case& one, const std::string& key, Output<T>& got) {
  expect(one, key, got.data(), got.count());
}

// seed, rank, layer, call, operand
inline nybble::RandomStream stream_of(const Case& one, const std::string& key) {
  const int64_t* s = one.data<int64_t>(key);
  return {uint32_t(s[0]), uint32_t(s[0] >> 32), uint32_t(s[4] << 16), uint32_t(s[3]),
          uint32_t(s[1] << 16 | s[2])};
}

// A family is one golden file and one function that computes a case with the active kernels.
struct Family {
  const char* name;
  void (*run)(const Case& one, int threads);
};

void run_decode(const Case& one, int threads);
void run_micro(const Case& one, int threads);
void run_gemm(const Case& one, int threads);
void run_conv(const Case& one, int threads);
void run_quantize(const Case& one, int threads);
void run_norm(const Case& one, int threads);
void run_recurrent(const Case& one, int threads);
void run_lines(const Case& one, int threads);
void run_blocks(const Case& one, int threads);

} // namespace nybble_tests
