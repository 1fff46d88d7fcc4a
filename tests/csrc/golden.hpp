// Reads the files of tools/golden.py: cases, each a name and arrays by name.
//
//     file   "NYBG", u32 version, u32 cases                       all little-endian
//     case   name, u16 arrays                                     a name: u8 length, characters
//     array  name, u8 type (B b h i q f), u8 dimensions, i64 sizes, elements
//
// Every array is copied to memory of exactly its size in `current_place` (memory.hpp).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace nybble_tests {

struct Array {
  char type;
  std::vector<int64_t> sizes;
  int64_t count, bytes;
  std::shared_ptr<void> data;
};

class Case {
public:
  std::string name;
  std::map<std::string, Array> arrays;

  bool has(const std::string& key) const { return arrays.count(key) != 0; }
  const Array& array(const std::string& key) const; // throws std::runtime_error
  int64_t integer(const std::string& key) const;    // an array of one int64
  float real(const std::string& key) const;         // an array of one float32

  // The elements; throws if the type is another. Null where there is no such array.
  template <class T>
  const T* data(const std::string& key) const {
    return static_cast<const T*>(typed(key, Type<T>::code));
  }

private:
  template <class T>
  struct Type;
  const void* typed(const std::string& key, char type) const;
};

template <>
struct Case::Type<uint8_t> {
  static constexpr char code = 'B';
};
template <>
struct Case::Type<int8_t> {
  static constexpr char code = 'b';
};
template <>
struct Case::Type<int16_t> {
  static constexpr char code = 'h';
};
template <>
struct Case::Type<int32_t> {
  static constexpr char code = 'i';
};
template <>
struct Case::Type<int64_t> {
  static constexpr char code = 'q';
};
template <>
struct Case::Type<float> {
  static constexpr char code = 'f';
};

std::vector<Case> read_golden(const std::string& path);

} // namespace nybble_tests
