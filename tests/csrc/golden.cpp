#include "golden.hpp"

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "memory.hpp"

namespace nybble_tests {
namespace {

class Reader {
public:
  explicit Reader(std::vector<char> bytes) : bytes_(std::move(bytes)) {}

  template <class T>
  T number() {
    T value;
    copy(&value, sizeof(T));
    return value;
  }
  std::string name() {
    std::string text(number<uint8_t>(), ' ');
    copy(text.data(), int64_t(text.size()));
    return text;
  }
  void copy(void* to, int64_t count) {
    if (count < 0 || count > int64_t(bytes_.size()) - at_)
      throw std::runtime_error("the file ends too early");
    if (count > 0) std::memcpy(to, bytes_.data() + at_, size_t(count));
    at_ += count;
  }
  bool at_end() const { return at_ == int64_t(bytes_.size()); }

private:
  std::vector<char> bytes_;
  int64_t at_ = 0;
};

int64_t size_of(char type) {
  switch (type) {
  case 'B':
  case 'b':
    return 1;
  case 'h':
    return 2;
  case 'i':
  case 'f':
    return 4;
  case 'q':
    return 8;
  default:
    throw std::runtime_error(std::string("unknown type ") + type);
  }
}

Array read_array(Reader& in) {
  Array out{};
  out.type = char(in.number<uint8_t>());
  out.count = 1;
  for (int left = in.number<uint8_t>(); left > 0; --left) {
    out.sizes.push_back(in.number<int64_t>());
    out.count *= out.sizes.back();
  }
  out.bytes = out.count * size_of(out.type);
  out.data = allocate(out.bytes, current_place);
  in.copy(out.data.get(), out.bytes);
  return out;
}

} // namespace

const Array& Case::array(const std::string& key) const {
  const auto found = arrays.find(key);
  if (found == arrays.end()) throw std::runtime_error(name + ": no array " + key);
  return found->second;
}

const void* Case::typed(const std::string& key, char type) const {
  if (!has(key)) return nullptr;
  if (array(key).type != type) throw std::runtime_error(name + ": the type of " + key);
  return array(key).data.get();
}

int64_t Case::integer(const std::string& key) const {
  if (array(key).count != 1) throw std::runtime_error(name + ": not one number: " + key);
  return *data<int64_t>(key);
}

float Case::real(const std::string& key) const {
  if (array(key).count != 1) throw std::runtime_error(name + ": not one number: " + key);
  return *data<float>(key);
}

std::vector<Case> read_golden(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  Reader in({std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()});
  char magic[4];
  in.copy(magic, 4);
  if (std::memcmp(magic, "NYBG", 4) != 0 || in.number<uint32_t>() != 1)
    throw std::runtime_error(path + " is not a golden file of version 1");
  std::vector<Case> cases(in.number<uint32_t>());
  for (Case& one : cases) {
    one.name = in.name();
    for (int left = in.number<uint16_t>(); left > 0; --left) {
      const std::string key = in.name();
      one.arrays[key] = read_array(in);
    }
  }
  if (!in.at_end()) throw std::runtime_error(path + " has bytes beyond its last case");
  return cases;
}

} // namespace nybble_tests
