#include "pool.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>

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

// Free ranges smaller than this are left where they are: a move costs some microseconds however
// small it is, and mappings would become ever more.
constexpr size_t kWorthMoving = size_t(1) << 18;

#ifdef __linux__
#ifdef MREMAP_DONTUNMAP
constexpr int kLeave = MREMAP_DONTUNMAP;
#else
constexpr int kLeave = 4; // headers older than Linux 5.7; an older system refuses it
#endif
#endif

size_t rounded(size_t bytes, size_t unit) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  return (std::max(bytes, size_t(1)) + unit - 1) / unit * unit;
}

#ifndef NYBBLE_PLAIN_POOL
// A new mapping, below `below` where the system grants that: it then joins what is free there.
uintptr_t map_region(size_t bytes, uintptr_t below, int access = PROT_READ | PROT_WRITE) {
  void* hint = reinterpret_cast<void*>(below > bytes ? below - bytes : 0);
  void* p = mmap(hint, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return reinterpret_cast<uintptr_t>(p);
}

// Addresses alone, for pages to be moved to: nobody else's mapping comes to lie in them, and no
// limit on memory counts them.
[[maybe_unused]] uintptr_t reserve(size_t bytes, uintptr_t below) {
  return map_region(bytes, below, PROT_NONE);
}
#endif

} // namespace

#ifdef NYBBLE_PLAIN_POOL

void* Pool::take(size_t bytes, [[maybe_unused]] Kind kind) {
  const size_t size = rounded(bytes, kPage);
  // Not operator new: the sanitizer's ends the process where there is no memory.
  void* p = std::aligned_alloc(kPage, size);
  if (p == nullptr) throw std::bad_alloc();
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
    tags_.erase(found->first);
    taken_.erase(found);
  }
  std::free(block);
}

size_t Pool::release() { return 0; }

void Pool::hollow(const void*) {}

#else

void* Pool::take(size_t bytes, Kind kind) {
  const size_t size = rounded(bytes, kPage);
  const std::lock_guard<std::mutex> lock(mutex_);
  auto range = find(size, kind);
  if (range == free_.end()) {
    if (size < region_ && worth_moving() < size)
      map_more(size);
    else
      join(size);
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

void Pool::map_more(size_t size) {
  const size_t region = rounded(size, region_);
  lowest_ = map_region(region, lowest_);
  seams_.insert(lowest_);
  use_.mapped += region;
  add_free(lowest_, region);
}

// Bytes of the free ranges that `join` would take.
size_t Pool::worth_moving() const {
  size_t total = 0;
  for (const auto& range : free_)
    if (range.second >= kWorthMoving) total += range.second;
  return total;
}

#ifdef __linux__

// Make one free range of `size` bytes out of smaller ones, the largest first, and of new pages
// where they are too few.
void Pool::join(size_t size) {
  std::vector<std::pair<size_t, uintptr_t>> ranges;
  for (const auto& [start, bytes] : free_)
    if (bytes >= kWorthMoving) ranges.emplace_back(bytes, start);
  std::sort(ranges.rbegin(), ranges.rend());

  uintptr_t target;
  try {
    target = reserve(size, lowest_);
  } catch (const std::bad_alloc&) {
    // Even addresses are limited here (ulimit -v): the ranges go to the system, which may join
    // them.
    for (const auto& [bytes, start] : ranges)
      unmap_free(start, bytes);
    map_more(size);
    return;
  }
  lowest_ = target;
  size_t done = 0;
  for (auto [bytes, start] : ranges) {
    bytes = std::min(bytes, size - done);
    if (bytes == 0) break;
    const size_t rest = free_[start] - bytes;
    free_.erase(start);
    if (rest > 0) free_.emplace(start + bytes, rest);
    seams_.insert(start + bytes); // what stays begins there
    for (const size_t end = done + bytes; done < end;) {
      const size_t part = *seams_.upper_bound(start) - start;
      seams_.insert(target + done);
      void* const old = reinterpret_cast<void*>(start);
      void* const now = reinterpret_cast<void*>(target + done);
      if (mremap(old, part, part, MREMAP_MAYMOVE | MREMAP_FIXED, now) == MAP_FAILED) {
        // The system limits the number of mappings; fewer pages now, and more new ones below.
        munmap(old, part);
        use_.mapped -= part;
        if (mprotect(now, part, PROT_READ | PROT_WRITE) != 0) {
          if (done + part < end) add_free(start + part, end - done - part);
          fail(target, done, size);
        }
        use_.mapped += part;
      } else {
        use_.moved += part;
      }
      seams_.erase(start);
      done += part;
      start += part;
    }
  }
  if (done < size) {
    seams_.insert(target + done);
    void* const fresh = reinterpret_cast<void*>(target + done);
    if (mprotect(fresh, size - done, PROT_READ | PROT_WRITE) != 0) fail(target, done, size);
    use_.mapped += size - done;
  }
  seams_.insert(target + size);
  add_free(target, size);
}

// Of what was reserved only `done` bytes have memory, and there is no more.
void Pool::fail(uintptr_t target, size_t done, size_t size) {
  munmap(reinterpret_cast<void*>(target + done), size - done);
  seams_.insert(target + done);
  if (done > 0) add_free(target, done);
  throw std::bad_alloc();
}

void Pool::hollow(const void* block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = taken_.find(reinterpret_cast<uintptr_t>(block));
  if (found == taken_.end() || found->second < kWorthMoving || hollow_.count(found->first) > 0)
    return;
  const auto [start, bytes] = *found;
  const int how = MREMAP_MAYMOVE | MREMAP_FIXED | kLeave;
  seams_.insert(start + bytes);
  for (uintptr_t at = start; at < start + bytes;) {
    const size_t part = *seams_.upper_bound(at) - at;
    uintptr_t target;
    try {
      target = reserve(part, lowest_);
    } catch (const std::bad_alloc&) {
      madvise(reinterpret_cast<void*>(at), part, MADV_DONTNEED);
      use_.mapped -= part;
      at += part;
      continue;
    }
    void* const old = reinterpret_cast<void*>(at);
    void* const now = reinterpret_cast<void*>(target);
    if (mremap(old, part, part, how, now) == MAP_FAILED) {
      munmap(now, part);
      madvise(old, part, MADV_DONTNEED); // then the memory goes to the system
      use_.mapped -= part;
    } else {
      use_.moved += part;
      seams_.insert(target);
      seams_.insert(target + part);
      lowest_ = target;
      add_free(target, part);
    }
    at += part;
  }
  hollow_.insert(start);
  use_.taken -= bytes;
}

#else

void Pool::join(size_t size) { map_more(size); }

void Pool::hollow(const void*) {}

#endif

void Pool::give(void* block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = taken_.find(reinterpret_cast<uintptr_t>(block));
  if (found == taken_.end()) std::abort(); // given back twice: the memory is somebody else's
  const auto [start, bytes] = *found;
  tags_.erase(start);
  taken_.erase(found);
  if (hollow_.erase(start) > 0) {
    munmap(block, bytes);
    seams_.erase(seams_.lower_bound(start), seams_.lower_bound(start + bytes));
    seams_.insert(start + bytes);
    return;
  }
  use_.taken -= bytes;
  add_free(start, bytes);
}

void Pool::unmap_free(uintptr_t start, size_t bytes) {
  if (munmap(reinterpret_cast<void*>(start), bytes) != 0) return;
  free_.erase(start);
  seams_.erase(seams_.lower_bound(start), seams_.lower_bound(start + bytes));
  seams_.insert(start + bytes);
  use_.mapped -= bytes;
}

size_t Pool::release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const size_t before = use_.mapped;
  for (auto range = free_.begin(); range != free_.end();) {
    const auto [start, bytes] = *range++;
    unmap_free(start, bytes);
  }
  return before - use_.mapped;
}

#endif

bool Pool::owns(const void* block, uintptr_t tag) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = tags_.find(reinterpret_cast<uintptr_t>(block));
  return found != tags_.end() && found->second == tag;
}

void Pool::tag(const void* block, uintptr_t tag) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (taken_.count(reinterpret_cast<uintptr_t>(block)) > 0)
    tags_[reinterpret_cast<uintptr_t>(block)] = tag;
}

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
