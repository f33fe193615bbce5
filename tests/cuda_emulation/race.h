// What the emulator tells the race detector; nothing, in a build without one.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

// A tensor that a kernel was given: only such memory may be touched, in elements of one size.
struct Region {
  char* begin;
  uint64_t bytes, element;
};

int current_thread();
int current_block();
[[noreturn]] void fail_at(const char* what, const void* instruction);

#if EMULATOR_RACE
void race_begin_launch(const Region* regions, int count, int threads);
void race_begin_block(char* stacks, size_t stack_bytes);
void race_shared(char* begin, size_t bytes);
void race_block_barrier();
void race_warp_barrier(int warp, unsigned mask);
void race_atomic(void* address, int bytes, const void* instruction);
#else
inline void race_begin_launch(const Region*, int, int) {}
inline void race_begin_block(char*, size_t) {}
inline void race_shared(char*, size_t) {}
inline void race_block_barrier() {}
inline void race_warp_barrier(int, unsigned) {}
inline void race_atomic(void*, int, const void*) {}
#endif

}  // namespace emulator
