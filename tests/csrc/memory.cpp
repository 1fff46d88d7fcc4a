#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

namespace nybble_tests {

Place current_place = Place::Heap;

std::shared_ptr<void> allocate(int64_t bytes, Place place) {
  if (place == Place::Heap) {
    std::shared_ptr<void> out(std::malloc(size_t(bytes)), std::free);
    if (out == nullptr && bytes > 0) throw std::bad_alloc();
    return out;
  }
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  const size_t inside = (size_t(bytes) + page - 1) / page * page;
  void* base =
      mmap(nullptr, inside + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  mprotect(static_cast<char*>(base) + inside, page, PROT_NONE);
  return {static_cast<char*>(base) + inside - bytes,
          [base, inside, page](void*) { munmap(base, inside + page); }};
}

} // namespace nybble_tests
