// The race detector: a compiler that instruments for the thread sanitizer calls these functions instead of its runtime
// at every access to memory. Memory is known by elements of the arguments and by words of shared memory; two accesses
// by different threads, one of which writes, need a barrier in between. Shuffles and ballots are none.
#include "race.h"

#if EMULATOR_RACE

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

extern "C" const char __ehdr_start;  // where this library is loaded

namespace emulator {
namespace {

constexpr int nobody = -1, several = -2;

// Threads that touched an element and may not be ordered among themselves.
struct Record {
  int block = nobody, warp = nobody;
  unsigned lanes = 0;
  int barrier = 0, clock = 0;
  bool atomic = false;
};
struct Cell {
  Record written, read;
};
struct Memory {
  char* begin;
  uint64_t bytes, element;
  bool shared;
  std::vector<Cell> cells;
};
// Each lane counts its warp barriers, and knows the counts of others up to which it has seen their memory.
struct Warp {
  int clock[32], known[32][32];
};

std::vector<Memory> memories;
std::vector<Warp> warps;
size_t last;  // the memory of the access before this one
char* stacks;
size_t stack_bytes;
int barriers;

struct Thread {
  int block, warp, lane;
};

bool ordered(const Record& record, const Thread& me) {
  if (record.block == nobody) return true;
  if (record.block != me.block) return false;
  if (record.barrier < barriers) return true;
  if (record.warp != me.warp) return false;
  for (unsigned others = record.lanes & ~(1u << me.lane); others; others &= others - 1)
    if (warps[me.warp].known[me.lane][__builtin_ctz(others)] < record.clock) return false;
  return true;
}
void add(Record& record, const Thread& me, bool atomic) {
  const int clock = warps[me.warp].clock[me.lane];
  if (ordered(record, me)) {
    record = {me.block, me.warp, 1u << me.lane, barriers, clock, atomic};
    return;
  }
  if (record.block != me.block) record.block = several;
  if (record.warp != me.warp) record.warp = several;
  record.lanes |= 1u << me.lane;
  record.clock = std::max(record.clock, clock);
}

int only_constants(dl_phdr_info* library, size_t, void* address) {
  if (library->dlpi_addr != reinterpret_cast<uintptr_t>(&__ehdr_start)) return 0;
  const uint64_t offset = reinterpret_cast<uintptr_t>(address) - library->dlpi_addr;
  for (int k = 0; k < library->dlpi_phnum; ++k) {
    const auto& segment = library->dlpi_phdr[k];
    if (segment.p_type == PT_LOAD && !(segment.p_flags & PF_W) && offset - segment.p_vaddr < segment.p_memsz) return 1;
  }
  return 0;
}

Memory* find(const char* p, uint64_t bytes) {
  const auto holds = [&](const Memory& m) { return uint64_t(p - m.begin) < m.bytes && p - m.begin + bytes <= m.bytes; };
  if (last < memories.size() && holds(memories[last])) return &memories[last];
  for (last = 0; last < memories.size(); ++last)
    if (holds(memories[last])) return &memories[last];
  return nullptr;
}

enum class Kind { read, write, atomic };

void access(void* address, uint64_t bytes, Kind kind, const void* instruction) {
  char* const p = static_cast<char*>(address);
  const int thread = current_thread();
  if (uint64_t(p - (stacks + thread * stack_bytes)) < stack_bytes) return;
  Memory* const memory = find(p, bytes);
  if (!memory) {
    if (kind == Kind::read && dl_iterate_phdr(only_constants, address)) return;
    fail_at("access outside of every argument and of shared memory", instruction);
  }
  const Thread me{current_block(), thread / 32, thread % 32};
  const uint64_t first = (p - memory->begin) / memory->element;
  const uint64_t end = (p - memory->begin + bytes + memory->element - 1) / memory->element;
  for (uint64_t k = first; k < end; ++k) {
    Cell& cell = memory->cells[k];
    if (kind == Kind::read) {
      if (memory->shared && cell.written.block == nobody)
        fail_at("read of shared memory that nobody wrote", instruction);
      if (!ordered(cell.written, me)) fail_at("race: read of what another thread wrote", instruction);
      add(cell.read, me, false);
      continue;
    }
    const bool both_atomic = kind == Kind::atomic && cell.written.atomic;
    if (!both_atomic && !ordered(cell.written, me)) fail_at("race: write of what another thread wrote", instruction);
    if (!ordered(cell.read, me)) fail_at("race: write of what another thread read", instruction);
    add(cell.written, me, kind == Kind::atomic);
  }
}

}  // namespace

void race_begin_launch(const Region* regions, int count, int threads) {
  memories.clear();
  for (int k = 0; k < count; ++k) {
    const Region& region = regions[k];
    const bool known = std::any_of(memories.begin(), memories.end(), [&](const Memory& memory) {
      return memory.begin == region.begin && memory.bytes >= region.bytes;
    });
    if (!known)
      memories.push_back(
          {region.begin, region.bytes, region.element, false, std::vector<Cell>(region.bytes / region.element)});
  }
  warps.assign((threads + 31) / 32, {});
}
void race_shared(char* begin, size_t bytes) {
  memories.push_back({begin, bytes, 4, true, std::vector<Cell>((bytes + 3) / 4)});
}
void race_begin_block(char* begin, size_t bytes) {
  stacks = begin;
  stack_bytes = bytes;
  barriers = 0;
  for (Memory& memory : memories)
    if (memory.shared) std::fill(memory.cells.begin(), memory.cells.end(), Cell());
  for (Warp& warp : warps) {
    warp = {};
    std::fill_n(warp.clock, 32, 1);
  }
}
void race_block_barrier() { ++barriers; }
void race_warp_barrier(int number, unsigned mask) {
  Warp& warp = warps[number];
  int now = 0, known[32] = {};
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    now = std::max(now, warp.clock[lane]);
    for (int other = 0; other < 32; ++other) known[other] = std::max(known[other], warp.known[lane][other]);
  }
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) known[lane] = now;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    std::copy_n(known, 32, warp.known[lane]);
    warp.clock[lane] = now + 1;
  }
}
void race_atomic(void* address, int bytes, const void* instruction) {
  access(address, bytes, Kind::atomic, instruction);
}

}  // namespace emulator

#define ACCESS(name, bytes, kind)                                                        \
  extern "C" void __tsan_##name(void* address) {                                         \
    emulator::access(address, bytes, emulator::Kind::kind, __builtin_return_address(0)); \
  }
#define ACCESSES(bytes)                      \
  ACCESS(read##bytes, bytes, read)           \
  ACCESS(write##bytes, bytes, write)         \
  ACCESS(unaligned_read##bytes, bytes, read) \
  ACCESS(unaligned_write##bytes, bytes, write)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
extern "C" {
void __tsan_read_range(void* address, uint64_t bytes) {
  emulator::access(address, bytes, emulator::Kind::read, __builtin_return_address(0));
}
void __tsan_write_range(void* address, uint64_t bytes) {
  emulator::access(address, bytes, emulator::Kind::write, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}

#endif
