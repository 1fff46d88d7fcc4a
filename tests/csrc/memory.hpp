// Memory of exactly the size of an array, in which a kernel that leaves the array is caught:
//
//     Heap    malloc: AddressSanitizer sees every access but those of inline assembly
//     Pages   the array ends where a page without access begins: the processor sees all reads and
//             writes beyond the end, and no address is aligned to more than an element
#pragma once

#include <cstdint>
#include <memory>

namespace nybble_tests {

enum class Place { Heap, Pages };

std::shared_ptr<void> allocate(int64_t bytes, Place place);

// Where the arrays of the current run are put.
extern Place current_place;

} // namespace nybble_tests
