# The kernels of csrc/ and how they are compiled: shared by the Python module (CMakeLists.txt) and by
# the C++ test binary (tests/csrc/CMakeLists.txt), so that what is tested is what is shipped.
#
#   nybble_kernel_sources(out)      every .cpp file that this processor can compile
#   nybble_compile_kernels(target)  the flags that their results depend on
#
# A file ending in _avx2.cpp (or another set) is compiled for that set and called only after the CPU
# said that it has it; every other file is compiled for the base CPU.

set(NYBBLE_CSRC "${CMAKE_CURRENT_LIST_DIR}")
set(NYBBLE_X86 "^(x86_64|AMD64|amd64)$")
set(NYBBLE_ARM "^(aarch64|arm64|ARM64)$")

function(nybble_kernel_sources out)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${NYBBLE_CSRC}/*.cpp")
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "${NYBBLE_X86}")
    list(FILTER sources EXCLUDE REGEX "_(avx2|avx512vnni)\\.cpp$")
  endif()
  if(MSVC OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "${NYBBLE_ARM}")
    list(FILTER sources EXCLUDE REGEX "_(neon|dotprod)\\.cpp$")
  endif()
  set(${out} ${sources} PARENT_SCOPE)
endfunction()

function(nybble_compile_kernels target)
  get_target_property(sources ${target} SOURCES)
  set(avx2 ${sources})
  list(FILTER avx2 INCLUDE REGEX "_avx2\\.cpp$")
  set(avx512vnni ${sources})
  list(FILTER avx512vnni INCLUDE REGEX "_avx512vnni\\.cpp$")
  set(neon ${sources})
  list(FILTER neon INCLUDE REGEX "_neon\\.cpp$")
  set(dotprod ${sources})
  list(FILTER dotprod INCLUDE REGEX "_dotprod\\.cpp$")
  target_include_directories(${target} PRIVATE "${NYBBLE_CSRC}")
  # Floating point is what the source says: no contraction to FMA, no reassociation.
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 /fp:precise)
    set_source_files_properties(${avx2} PROPERTIES COMPILE_OPTIONS "/arch:AVX2")
    set_source_files_properties(${avx512vnni} PROPERTIES COMPILE_OPTIONS "/arch:AVX512")
  else()
    target_compile_options(${target} PRIVATE -Wall -Wextra -ffp-contract=off)
    set_source_files_properties(${avx2} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
    set(wide "-mavx2;-mfma;-mf16c;-mavx512f;-mavx512vnni")
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # Of GCC's own header (its bug 105593): intrinsics that begin from an undefined register.
      list(APPEND wide "-Wno-maybe-uninitialized" "-Wno-uninitialized")
    endif()
    set_source_files_properties(${avx512vnni} PROPERTIES COMPILE_OPTIONS "${wide}")
    set_source_files_properties(${dotprod} PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod")
  endif()
  if(avx2)
    target_compile_definitions(${target} PRIVATE NYBBLE_HAVE_AVX2=1)
  endif()
  if(neon)
    target_compile_definitions(${target} PRIVATE NYBBLE_HAVE_NEON=1)
  endif()
  find_package(OpenMP) # optional: without it the kernels compute on one thread
  if(OpenMP_CXX_FOUND)
    target_link_libraries(${target} PRIVATE OpenMP::OpenMP_CXX)
  endif()
  if(NYBBLE_SANITIZE)
    set(sanitize -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
    target_compile_options(${target} PRIVATE ${sanitize})
    target_link_options(${target} PRIVATE ${sanitize})
  endif()
endfunction()
