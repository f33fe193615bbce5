// A pool of threads that survives fork and hands out blocks of work.
#pragma once
#include <cstdint>

namespace voge {

// Calls task(context, worker, index) once for every index in [0, count), on at most `threads` threads (the caller is
// worker 0). Indices are handed out in order; an exception of a task ends the loop and is thrown again here. When the
// pool is busy with another caller's loop, the caller does all the work alone.
void parallel_for(int64_t count, int threads, void (*task)(void* context, int worker, int64_t index), void* context);

template <class F>
static inline void parallel_for(int64_t count, int threads, F& body) {
  parallel_for(count, threads, [](void* f, int worker, int64_t index) { (*static_cast<F*>(f))(worker, index); }, &body);
}

}  // namespace voge
