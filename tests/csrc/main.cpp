// Runs every family of golden vectors on every instruction set of this machine, on one to three
// threads, with arrays on the heap and before guarded pages, and compares bit for bit; one line a
// family, status 1 at the first difference.
//
//     nybble_tests tests/csrc/golden [family ...]
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "check.hpp"
#include "core/dispatch.hpp"
#include "golden.hpp"
#include "memory.hpp"

namespace {

using nybble_tests::Case;
using nybble_tests::Family;
using nybble_tests::Place;

const Family kFamilies[] = {
    {"decode", nybble_tests::run_decode},       {"micro", nybble_tests::run_micro},
    {"gemm", nybble_tests::run_gemm},           {"conv", nybble_tests::run_conv},
    {"quantize", nybble_tests::run_quantize},   {"norm", nybble_tests::run_norm},
    {"recurrent", nybble_tests::run_recurrent}, {"lines", nybble_tests::run_lines},
    {"blocks", nybble_tests::run_blocks},
};

bool wanted(const Family& family, int count, char** names) {
  for (int i = 0; i < count; ++i)
    if (std::strcmp(family.name, names[i]) == 0) return true;
  return count == 0;
}

// The names of the instruction sets that ran; throws std::runtime_error for a difference.
std::string run(const Family& family, const std::string& path, size_t& count) {
  std::string sets;
  for (const nybble::Kernels& set : nybble::compiled_sets()) {
    if (!nybble::runs_here(set)) continue;
    nybble::use(set.name);
    sets += std::string(sets.empty() ? "" : ", ") + set.name;
    for (int threads = 1; threads <= 3; ++threads) {
      nybble_tests::current_place = threads == 2 ? Place::Pages : Place::Heap;
      const std::vector<Case> cases = nybble_tests::read_golden(path);
      count = cases.size();
      for (const Case& one : cases) {
        try {
          family.run(one, threads);
        } catch (const std::exception& error) {
          throw std::runtime_error(one.name + " (" + set.name + ", " + std::to_string(threads) +
                                   " threads): " + error.what());
        }
      }
    }
  }
  return sets;
}

} // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: nybble_tests FOLDER [FAMILY ...]\n");
    return 2;
  }
  for (const Family& family : kFamilies) {
    if (!wanted(family, count - 2, arguments + 2)) continue;
    try {
      size_t cases = 0;
      const std::string path = std::string(arguments[1]) + "/" + family.name + ".golden";
      const std::string sets = run(family, path, cases);
      std::printf("%-12s %4zu cases equal on %s, 1 to 3 threads\n", family.name, cases,
                  sets.c_str());
      std::fflush(stdout);
    } catch (const std::exception& error) {
      std::printf("%-12s FAILED: %s\n", family.name, error.what());
      return 1;
    }
  }
  return 0;
}
