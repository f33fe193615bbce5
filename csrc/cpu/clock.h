// Cycle counts by stage, for benchmarks, and the memory of a call's threads.
#pragma once
#include "cpu/args.h"
#include "cpu/simd.h"

namespace voge {
extern Counters counters;  // sums since the last reset (bindings)
extern bool counting_pairs;
void add_to_counters(const Counters& c);
}  // namespace voge

VOGE_NAMESPACE_BEGIN

struct Stopwatch {
  uint64_t at = now();
  static uint64_t now() {
#if defined(__x86_64__)
    return __rdtsc();
#elif defined(__aarch64__)
    uint64_t t;
    asm volatile("mrs %0, cntvct_el0" : "=r"(t));
    return t;
#else
    return 0;
#endif
  }
  void lap(uint64_t& total) {
    const uint64_t t = now();
    total += t - at;
    at = t;
  }
};

// The memory of a call's threads.
template <class W>
struct Team {
  template <class... A>
  explicit Team(int n, const A&... arguments)
      : size(n), members((W*)aligned_alloc(64, (n * sizeof(W) + 63) / 64 * 64)) {
    if (!members) throw std::bad_alloc();
    for (int i = 0; i < n; ++i) new (members + i) W(arguments...);
  }
  ~Team() {
    for (int i = 0; i < size; ++i) members[i].~W();
    free(members);
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  W& operator[](int i) { return members[i]; }
  void add_counters() {
    for (int i = 0; i < size; ++i) add_to_counters(members[i].counters);
  }
  int size;
  W* members;
};

VOGE_NAMESPACE_END
