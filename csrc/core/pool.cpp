#include "pool.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NYBBLE_PLAIN_POOL 1
#endif
#endif
// A sanitizer sees the ends of blocks of malloc, but not of parts of a mapping.
#if defined(__SANITIZE_ADDRESS__) || !(defined(__unix__) || defined(__APPLE__))
#define NYBBLE_PLAIN_POOL 1
#endif

namespace nybble {
namespace {

constexpr size_t kPage = 4096; // blocks are whole pages, so no two share a cache line

size_t rounded(size_t bytes, size_t unit) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  return (std::max(bytes, size_t(1)) + unit - 1) / unit * unit;
}

#ifndef NYBBLE_PLAIN_POOL
// A new mapping, below `below` where the system grants that: it then joins what is free there.
uintptr_t map_region(size_t bytes, uintptr_t below) {
  void* hint = reinterpret_cast<void*>(below > bytes ? below - bytes : 0);
  void* p = mmap(hint, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return reinterpret_cast<uintptr_t>(p);
}
#endif

} // namespace

#ifdef NYBBLE_PLAIN_POOL

void* Pool::take(size_t bytes, [[maybe_unused]] Kind kind) {
  const size_t size = rounded(bytes, kPage);
  void* p = ::operator new(size, std::align_val_t(kPage));
  const std::lock_guard<std::mutex> lock(mutex_);
  taken_[reinterpret_cast<uintptr_t>(p)] = size;
  use_.mapped = use_.taken += size;
  use_.most_taken = std::max(use_.most_taken, use_.taken);
  return p;
}

void Pool::give(void* block) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = taken_.find(reinterpret_cast<uintptr_t>(block));
    if (found == taken_.end()) std::abort();
    use_.mapped = use_.taken -= found->second;
    taken_.erase(found);
  }
  ::operator delete(block, std::align_val_t(kPage));
}

size_t Pool::release() { return 0; }

#else

void* Pool::take(size_t bytes, Kind kind) {
  const size_t size = rounded(bytes, kPage);
  const std::lock_guard<std::mutex> lock(mutex_);
  auto range = find(size, kind);
  if (range == free_.end()) {
    const size_t region = rounded(size, region_);
    lowest_ = map_region(region, lowest_);
    add_free(lowest_, region);
    use_.mapped += region;
    range = find(size, kind);
  }
  const auto [from, whole] = *range;
  free_.erase(range);
  const uintptr_t start = kind == Kind::kept ? from + (whole - size) : from;
  if (whole > size) free_.emplace(kind == Kind::kept ? from : from + size, whole - size);
  taken_[start] = size;
  use_.taken += size;
  use_.most_taken = std::max(use_.most_taken, use_.taken);
  return reinterpret_cast<void*>(start);
}

void Pool::give(void* block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = taken_.find(reinterpret_cast<uintptr_t>(block));
  if (found == taken_.end()) std::abort(); // given back twice: the memory is somebody else's
  use_.taken -= found->second;
  add_free(found->first, found->second);
  taken_.erase(found);
}

size_t Pool::release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  size_t total = 0;
  for (auto range = free_.begin(); range != free_.end();) {
    const auto here = range++;
    if (munmap(reinterpret_cast<void*>(here->first), here->second) != 0) continue;
    total += here->second;
    free_.erase(here);
  }
  use_.mapped -= total;
  return total;
}

#endif

Pool::Use Pool::use() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return use_;
}

Pool::Ranges::iterator Pool::find(size_t size, Kind kind) {
  const auto fits = [size](const auto& range) { return range.second >= size; };
  if (kind == Kind::passing) return std::find_if(free_.begin(), free_.end(), fits);
  const auto found = std::find_if(free_.rbegin(), free_.rend(), fits);
  return found == free_.rend() ? free_.end() : std::prev(found.base());
}

void Pool::add_free(uintptr_t start, size_t size) {
  const auto above = free_.lower_bound(start);
  if (above != free_.end() && start + size == above->first) {
    size += above->second;
    free_.erase(above);
  }
  const auto after = free_.lower_bound(start);
  if (after != free_.begin()) {
    const auto below = std::prev(after);
    if (below->first + below->second == start) {
      below->second += size;
      return;
    }
  }
  free_.emplace(start, size);
}

Pool& pool() {
  static Pool& only = *new Pool(size_t(16) << 20);
  return only;
}

Pool& lasting_pool() {
  static Pool& only = *new Pool(size_t(4) << 20);
  return only;
}

namespace {

constexpr size_t kLarge = size_t(1) << 17; // below, malloc is as good
constexpr std::align_val_t kLine{64};

} // namespace

Memory::Memory(size_t bytes) : pooled_(bytes >= kLarge) {
  void* p = pooled_ ? pool().take(bytes, Pool::Kind::passing) : ::operator new(bytes, kLine);
  data_ = static_cast<uint8_t*>(p);
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  if (pooled_)
    pool().give(data_);
  else
    ::operator delete(data_, kLine);
}

} // namespace nybble
