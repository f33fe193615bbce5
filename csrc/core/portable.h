// What lets one header serve every compiler: host, device, and one copy per instruction set.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define VOGE_HD __host__ __device__ inline
#else
#define VOGE_HD inline __attribute__((always_inline))
#endif

#if !defined(__CUDACC_RTC__)
#include <cmath>
#include <cstdint>
#endif

// Inline functions live in a namespace per instruction set, or the linker would merge copies compiled for different
// machines.
#if !defined(VOGE_ISA)
#define VOGE_ISA scalar
#endif
#define VOGE_NAMESPACE_BEGIN \
  namespace voge {           \
  namespace VOGE_ISA {
#define VOGE_NAMESPACE_END \
  }                        \
  }
