// The CUDA words that csrc/cuda uses, for a C++ compiler: included before a .cu file, it makes a library of its kernels
// that the emulator runs, a fibre for each thread and one block after another.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
};

// Out of line and by value, as calls that the race detector does not see into.
namespace emulator {
struct Place {
  const char* file;
  int line;
};
enum class Word { shuffle, ballot, sync };

dim3 thread_index();
dim3 block_index();
dim3 block_size();
dim3 grid_size();
int lane();
void block_barrier(Place place);
// Waits until every lane of the mask has come to the same place. Returns the value of lane `from` for a shuffle, a bit
// for each value that is not zero for a ballot.
uint64_t meet(Word word, unsigned mask, uint64_t value, int from, Place place);
void* shared_array(const void* name, size_t bytes);
void* dynamic_shared();
void before_atomic(void* address, int bytes);
[[noreturn]] void fail(const char* what, Place place);
}  // namespace emulator

// Where a word stands, as the last parameters of the functions behind the words.
#define EMULATOR_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())

// A variable that is unique to the place and the template's instance names the array.
#define VOGE_SHARED(type, name, dims)    \
  static const char name##_identity = 0; \
  type(&name) dims = *static_cast<type(*) dims>(emulator::shared_array(&name##_identity, sizeof(type dims)))
#define VOGE_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(emulator::dynamic_shared())

// For a kernel, after its file: what the emulator calls, and the parameters' types, a letter each (pointers capital).
#define EMULATOR_KERNEL(name)                      \
  EMULATOR_ENTRY(voge_##name##_f32, VOGE_ISA::f32) \
  EMULATOR_ENTRY(voge_##name##_f64, VOGE_ISA::f64)
#define EMULATOR_ENTRY(entry, space)                                                         \
  extern "C" __attribute__((visibility("default"))) void emulate_##entry(void** arguments) { \
    emulator::call(voge::space::entry, arguments);                                           \
  }                                                                                          \
  extern "C" __attribute__((visibility("default"))) const char* types_##entry() {            \
    return emulator::types(voge::space::entry);                                              \
  }

namespace emulator {
template <class A>
constexpr char letter() {
  using V = std::remove_cv_t<std::remove_pointer_t<A>>;
  constexpr char plain = std::is_same_v<V, float>      ? 'f'
                         : std::is_same_v<V, double>   ? 'd'
                         : std::is_same_v<V, uint8_t>  ? 'b'
                         : std::is_same_v<V, int32_t>  ? 'i'
                         : std::is_same_v<V, uint32_t> ? 'u'
                         : std::is_same_v<V, int64_t>  ? 'l'
                                                       : '?';
  static_assert(plain != '?', "a kernel's parameters are numbers and pointers to numbers");
  return std::is_pointer_v<A> ? plain - 'a' + 'A' : plain;
}
template <class... A>
const char* types(void (*)(A...)) {
  static const char letters[] = {letter<A>()..., 0};
  return letters;
}
template <class... A, size_t... I>
__attribute__((no_sanitize("thread"))) void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<A*>(arguments[I])...);
}
template <class... A>
void call(void (*kernel)(A...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<A...>());
}

template <class T>
uint64_t to_bits(T x) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "lanes exchange 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof x);
  return bits;
}
// The value of lane `from`, or of this lane where that is beyond the warp.
template <class T>
T shuffle(unsigned mask, T x, int from, Place place) {
  const uint64_t bits = meet(Word::shuffle, mask, to_bits(x), from < 0 || from > 31 ? lane() : from, place);
  memcpy(&x, &bits, sizeof x);
  return x;
}
}  // namespace emulator

// Widths other than a warp's are not there: nothing uses them.
template <class T>
T __shfl_sync(unsigned mask, T x, int from, EMULATOR_PLACE) {
  return emulator::shuffle(mask, x, from & 31, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, int by, EMULATOR_PLACE) {
  return emulator::shuffle(mask, x, emulator::lane() - by, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, int by, EMULATOR_PLACE) {
  return emulator::shuffle(mask, x, emulator::lane() + by, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int by, EMULATOR_PLACE) {
  return emulator::shuffle(mask, x, emulator::lane() ^ by, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int yes, EMULATOR_PLACE) {
  return emulator::meet(emulator::Word::ballot, mask, yes != 0, 0, {file, line});
}
inline int __any_sync(unsigned mask, int yes, EMULATOR_PLACE) { return __ballot_sync(mask, yes, file, line) != 0; }
inline int __all_sync(unsigned mask, int yes, EMULATOR_PLACE) { return __ballot_sync(mask, yes, file, line) == mask; }
inline void emulated_syncwarp(unsigned mask = 0xffffffffu, EMULATOR_PLACE) {
  emulator::meet(emulator::Word::sync, mask, 0, 0, {file, line});
}
inline void emulated_syncthreads(EMULATOR_PLACE) { emulator::block_barrier({file, line}); }
#define __syncwarp emulated_syncwarp
#define __syncthreads emulated_syncthreads

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }

// As in CUDA, 64-bit ones take `unsigned long long` only; floating-point ones would make sums depend on the order.
#define EMULATOR_ATOMIC(name, type, result)                                     \
  inline type name(type* address, type x) {                                     \
    emulator::before_atomic(address, sizeof *address);                          \
    return emulator::update(address, [x](type old) -> type { return result; }); \
  }
#define EMULATOR_ATOMICS(name, result)    \
  EMULATOR_ATOMIC(name, int, result)      \
  EMULATOR_ATOMIC(name, unsigned, result) \
  EMULATOR_ATOMIC(name, unsigned long long, result)
namespace emulator {
template <class T, class F>
__attribute__((no_sanitize("thread"))) T update(T* address, F f) {
  const T old = *address;
  *address = f(old);
  return old;
}
}  // namespace emulator
EMULATOR_ATOMICS(atomicAdd, old + x)
EMULATOR_ATOMICS(atomicMin, x < old ? x : old)
EMULATOR_ATOMICS(atomicMax, old < x ? x : old)
EMULATOR_ATOMICS(atomicOr, old | x)
EMULATOR_ATOMICS(atomicAnd, old& x)
