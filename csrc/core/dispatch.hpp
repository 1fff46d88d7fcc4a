// One table of kernels per instruction set, chosen once by what the CPU has.
//
// A new set is one row in dispatch.cpp and one file per kernel. Every kernel has a generic twin,
// and tests compare each set with it bit for bit. A folder adds its own struct of kernels (its
// header says which), so that drivers read `active().gemm->...`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nybble {

struct DecodeKernels;
struct GemmKernels;
struct WinogradKernels;
struct ConvKernels;
struct QuantizeKernels;
struct StreamKernels;
struct SumKernels;
struct LineKernels;
struct BlockKernels;
struct NormKernels;
struct GateKernels;

struct Kernels {
  const char* name;                   // "generic", "avx2", ...
  std::vector<const char*> requires_; // CPU features that must all be present
  // 64-blocks of nibbles -> one code a byte; see unpack.hpp.
  void (*unpack4)(const uint8_t* bytes, size_t blocks, uint8_t* codes);
  const DecodeKernels* decode;
  const GemmKernels* gemm;         // gemm/micro.hpp
  const WinogradKernels* winograd; // winograd/kernels.hpp
  const ConvKernels* conv;         // conv/pack.hpp
  const QuantizeKernels* quantize; // quantize/pack.hpp
  const StreamKernels* streams;    // quantize/streams.hpp
  const SumKernels* sums;          // quantize/sums.hpp
  const LineKernels* lines;        // lines/kernels.hpp
  const BlockKernels* blocks;      // blocks/kernels.hpp
  const NormKernels* norm;         // norm/kernels.hpp
  const GateKernels* gates;        // recurrent/gates.hpp
};

// The sets compiled into this build, best first; the last one is "generic" and runs everywhere.
const std::vector<Kernels>& compiled_sets();

// Whether this CPU can run `set`.
bool runs_here(const Kernels& set);

// The set of that name, or the best one that runs here if `name` is empty. Throws
// std::invalid_argument for a set that is not compiled in or that this CPU cannot run.
const Kernels& choose(const std::string& name = "");

// The set that every driver uses: the best one, unless `use` named another (tests do).
const Kernels& active();
void use(const std::string& name);

} // namespace nybble
