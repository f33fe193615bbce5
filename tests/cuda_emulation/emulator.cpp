// Runs the threads of a block as fibres of one CPU thread. A fibre keeps running until it has to wait for others: at a
// warp's exchange or at a block's barrier.
#include "emulator.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "race.h"

extern "C" const char __ehdr_start;  // of the linker: where this library is loaded
extern "C" {                         // of the address sanitizer, in its builds only
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t bytes);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* fake, const void** bottom, size_t* bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* begin, size_t bytes);
}

namespace emulator {
namespace {

struct Launch {
  void (*kernel)(void**);
  void** arguments;
  int32_t grid, threads;
  int64_t shared;
  int32_t shuffled, regions;
  uint64_t seed;
  const Region* region;
  char* message;
  uint64_t message_bytes;
};

enum class State { running, at_barrier, meeting, done };
struct Fibre {
  void* registers[5];  // of __builtin_setjmp
  bool begun;
  State state;
  Place place;
  uint64_t value;  // given to a meeting, then got from it
  int from;
};
// Lanes of a warp that wait for each other.
struct Meeting {
  unsigned mask, arrived;
  Word word;
  Place place;
};
struct Warp {
  unsigned ready;
  std::vector<Meeting> meetings;
};
struct SharedArray {
  const void* name;
  size_t bytes;
  char* memory;
};

constexpr size_t stack_bytes = (128 << 10) + 320;  // not a power of two: stacks would share their cache lines
constexpr size_t most_static = 48 << 10, most_shared = 99 << 10;  // of the smallest cards that are supported

const Launch* launch;
std::vector<Fibre> fibres;
std::vector<Warp> warps;
std::vector<SharedArray> arrays;
char* stacks;
int current, block, done;
uint64_t random_state;
bool failed;
Fibre home;  // the caller of the launch
const void* home_stack;
size_t home_bytes;

unsigned random_below(unsigned n) {
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  return (random_state >> 32) * n >> 32;
}

// --- the switch between fibres -------------------------------------------------------------------------------------

void leave();

void work() {
  for (;;) {
    launch->kernel(launch->arguments);
    fibres[current].state = State::done;
    ++done;
    leave();
  }
}
void begin(bool from_home) {
  if (__sanitizer_finish_switch_fiber) {
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (from_home) home_stack = bottom, home_bytes = bytes;
  }
  work();
}
__attribute__((noinline, noreturn)) void enter(int thread, bool from_home) {
  Fibre& fibre = thread < 0 ? home : fibres[thread];
  if (fibre.begun) __builtin_longjmp(fibre.registers, 1);
  fibre.begun = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stacks + thread * stack_bytes;
  context.uc_stack.ss_size = stack_bytes;
  makecontext(&context, reinterpret_cast<void (*)()>(begin), 1, (int)from_home);
  setcontext(&context);
  abort();
}
// Continues with another thread, -1 for the caller of the launch, until some fibre enters this one again.
__attribute__((noinline)) void change(Fibre& self, int thread) {
  const bool from_home = &self == &home;
  void* fake = nullptr;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&fake, thread < 0 ? home_stack : stacks + thread * stack_bytes,
                                   thread < 0 ? home_bytes : stack_bytes);
  current = thread;
  if (!__builtin_setjmp(self.registers)) enter(thread, from_home);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}

// --- the schedule --------------------------------------------------------------------------------------------------

// Nothing is ready: all threads are done (-1) or all wait at one barrier and go on; anything else is a mistake.
void all_wait() {
  if (done == launch->threads) return;
  int waiting = -1;
  for (int thread = 0; thread < launch->threads; ++thread) {
    const Fibre& fibre = fibres[thread];
    if (fibre.state == State::done) continue;
    const Place place = fibre.place;
    current = thread;
    if (fibre.state == State::meeting) fail("lanes of the mask never arrive", place);
    if (done) fail("__syncthreads after some threads have returned", place);
    if (waiting >= 0 && place.line != fibres[waiting].place.line) fail("threads wait at different barriers", place);
    waiting = thread;
  }
  for (int thread = 0; thread < launch->threads; ++thread) {
    fibres[thread].state = State::running;
    warps[thread / 32].ready |= 1u << thread % 32;
  }
  race_block_barrier();
}
int next_ready() {
  const int n = (int)warps.size(), first = launch->shuffled ? random_below(n) : current < 0 ? 0 : current / 32;
  for (int k = 0; k < n; ++k) {
    const int warp = (first + k) % n;
    const unsigned ready = warps[warp].ready;
    if (!ready) continue;
    const int lane = launch->shuffled ? random_below(32) : k || current < 0 ? 0 : current % 32;
    const unsigned later = ready >> lane << lane;
    const int chosen = __builtin_ctz(later ? later : ready);
    warps[warp].ready &= ~(1u << chosen);
    return warp * 32 + chosen;
  }
  return -1;
}
void leave() {
  Fibre& self = fibres[current];
  const int thread = current;
  int next = next_ready();
  if (next < 0) all_wait(), current = thread, next = next_ready();
  if (next != thread) change(self, next);
  current = thread;
}

void run_block() {
  const int threads = launch->threads;
  done = 0;
  for (Warp& warp : warps) warp = {};
  for (int thread = 0; thread < threads; ++thread) {
    fibres[thread].state = State::running;
    warps[thread / 32].ready |= 1u << thread % 32;
  }
  for (const SharedArray& array : arrays) memset(array.memory, 0xff, array.bytes);
  race_begin_block(stacks, stack_bytes);
  current = -1;
  change(home, next_ready());
}

char* new_array(const void* name, size_t bytes) {
  char* memory = static_cast<char*>(malloc(bytes));
  memset(memory, 0xff, bytes);
  arrays.push_back({name, bytes, memory});
  race_shared(memory, bytes);
  return memory;
}

int run() {
  for (auto& array : arrays) free(array.memory);
  arrays.clear();
  random_state = launch->seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
  failed = false;
  if ((int)fibres.size() < launch->threads) fibres.resize(1024);
  if (!stacks)
    stacks = static_cast<char*>(
        mmap(nullptr, 1024 * stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  warps.assign((launch->threads + 31) / 32, {});
  home.begun = true;
  race_begin_launch(launch->region, launch->regions, launch->threads);
  new_array(nullptr, launch->shared);
  std::vector<int> order(launch->grid);
  for (int k = 0; k < launch->grid; ++k) {
    const int other = launch->shuffled ? random_below(k + 1) : k;
    order[k] = order[other], order[other] = k;
  }
  for (const int number : order) {
    block = number;
    run_block();
    if (failed) break;
  }
  if (failed) {  // the fibres that were left in the middle of their work
    for (Fibre& fibre : fibres) fibre.begun = false;
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(stacks, 1024 * stack_bytes);
  }
  return failed;
}

}  // namespace

// --- what kernels call ---------------------------------------------------------------------------------------------

dim3 thread_index() { return {(unsigned)current, 0, 0}; }
dim3 block_index() { return {(unsigned)block, 0, 0}; }
dim3 block_size() { return {(unsigned)launch->threads, 1, 1}; }
dim3 grid_size() { return {(unsigned)launch->grid, 1, 1}; }
int lane() { return current % 32; }
int current_thread() { return current; }
int current_block() { return block; }

void block_barrier(Place place) {
  Fibre& self = fibres[current];
  self.state = State::at_barrier;
  self.place = place;
  leave();
}

uint64_t meet(Word word, unsigned mask, uint64_t value, int from, Place place) {
  Fibre& self = fibres[current];
  Warp& warp = warps[current / 32];
  Fibre* const lanes = &fibres[current / 32 * 32];
  const unsigned bit = 1u << current % 32;
  if (!(mask & bit)) fail("a lane is not in its own mask", place);
  if (word == Word::shuffle && !(mask >> from & 1)) fail("a shuffle reads a lane outside of its mask", place);
  self.state = State::meeting;
  self.place = place;
  self.value = value;
  self.from = from;
  size_t k = 0;
  while (k < warp.meetings.size() && !(warp.meetings[k].mask & mask)) ++k;
  if (k == warp.meetings.size()) warp.meetings.push_back({mask, 0, word, place});
  Meeting& meeting = warp.meetings[k];
  if (meeting.mask != mask) fail("lanes of a warp disagree on the mask", place);
  if (meeting.word != word || meeting.place.line != place.line) fail("lanes of a warp meet at different places", place);
  meeting.arrived |= bit;
  if (meeting.arrived != mask) {
    leave();
    return self.value;
  }
  uint64_t got[32], bits = 0;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    got[lane] = lanes[lanes[lane].from].value;
    bits |= (uint64_t)(lanes[lane].value != 0) << lane;
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    lanes[lane].value = word == Word::shuffle ? got[lane] : bits;
    lanes[lane].state = State::running;
  }
  warp.meetings.erase(warp.meetings.begin() + k);
  if (word == Word::sync) race_warp_barrier(current / 32, mask);
  warp.ready |= mask & ~bit;
  if (launch->shuffled) {  // this lane need not be the first to go on
    warp.ready |= bit;
    leave();
  }
  return self.value;
}

void* shared_array(const void* name, size_t bytes) {
  size_t total = 0, fixed = 0;
  for (const SharedArray& array : arrays) {
    if (array.name == name) return array.memory;
    total += array.bytes;
    fixed += array.name ? array.bytes : 0;
  }
  if (fixed + bytes > most_static || total + bytes > most_shared)
    fail("more shared memory than every card has", {"shared memory", (int)(total + bytes)});
  return new_array(name, bytes);
}
void* dynamic_shared() { return arrays.front().memory; }

void before_atomic(void* address, int bytes) { race_atomic(address, bytes, __builtin_return_address(0)); }

void fail(const char* what, Place place) {
  snprintf(launch->message, launch->message_bytes, "%s: %s:%d, block %d, thread %d", what, place.file, place.line,
           block, current);
  failed = true;
  change(fibres[current], -1);
  abort();
}
void fail_at(const char* what, const void* instruction) {
  // Relative to the library, and within the call.
  const long offset = static_cast<const char*>(instruction) - &__ehdr_start - 1;
  snprintf(launch->message, launch->message_bytes, "%s: @0x%lx, block %d, thread %d", what, offset, block, current);
  failed = true;
  change(fibres[current], -1);
  abort();
}

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) int emulate(const emulator::Launch* launch) {
  emulator::launch = launch;
  return emulator::run();
}
