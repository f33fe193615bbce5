// What every kernel file needs: integer types, shared memory, and the entry points by name and dtype.
#pragma once
#include "core/portable.h"

#if defined(__CUDACC_RTC__)  // no system headers there
typedef unsigned char uint8_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#endif

// Shared memory of a block: `VOGE_SHARED(T, name, [32]);`, or all the bytes that the launch asked for, as T. A build
// without a GPU brings its own.
#if !defined(VOGE_SHARED)
#define VOGE_SHARED(type, name, dims) __shared__ type name dims
#define VOGE_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char voge_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(voge_dynamic_shared)
#endif

// The entry points voge_NAME_f32 and voge_NAME_f64 of the function template NAME<T>, for blocks of up to `threads`:
//   VOGE_KERNEL(scale, 128, (T* x, double by, int64_t n), (x, by, n))
// Parameters are pointers, int32_t, int64_t and double. Used once for each kernel, in the library's namespace. A build
// that needs one dtype only leaves out the other. One block a multiprocessor is enough: else ptxas spills registers to
// make room for more.
#define VOGE_KERNEL(name, threads, parameters, arguments)                 \
  VOGE_ENTRY_F32(voge_##name##_f32, name, threads, parameters, arguments) \
  VOGE_ENTRY_F64(voge_##name##_f64, name, threads, parameters, arguments)
#define VOGE_ENTRY_POINT(dtype, entry, name, threads, parameters, arguments)                                 \
  namespace dtype {                                                                                          \
  extern "C" __global__ void __launch_bounds__(threads, 1) entry parameters { VOGE_ISA::name<T> arguments; } \
  }
#if defined(VOGE_NO_F32)
#define VOGE_ENTRY_F32(...)
#else
#define VOGE_ENTRY_F32(...) VOGE_ENTRY_POINT(f32, __VA_ARGS__)
#endif
#if defined(VOGE_NO_F64)
#define VOGE_ENTRY_F64(...)
#else
#define VOGE_ENTRY_F64(...) VOGE_ENTRY_POINT(f64, __VA_ARGS__)
#endif

VOGE_NAMESPACE_BEGIN
namespace f32 {
typedef float T;
}
namespace f64 {
typedef double T;
}

template <class T>
VOGE_HD T infinity() {
  T zero = 0;
  return 1 / zero;
}
template <class T>
VOGE_HD bool is_finite(T x) {
  return x - x == 0;
}
VOGE_NAMESPACE_END
