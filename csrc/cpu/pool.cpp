#include "cpu/pool.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace voge {
namespace {

struct Loop {
  int64_t count = 0;
  void (*task)(void*, int, int64_t) = nullptr;
  void* context = nullptr;
  std::atomic<int64_t> next{0};
  std::atomic<int> workers{0};
  std::exception_ptr error;
  std::mutex error_mutex;

  void run(int worker) {
    try {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(context, worker, i);
    } catch (...) {
      std::lock_guard<std::mutex> lock(error_mutex);
      if (!error) error = std::current_exception();
      next.store(count);
    }
  }
};

class Pool {
 public:
  void run(Loop& loop, int threads) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(workers_.size()) < threads - 1) {
        const int worker = static_cast<int>(workers_.size()) + 1;
        workers_.emplace_back([this, worker] { serve(worker); });
      }
      loop_ = &loop;
      helpers_ = threads - 1;
      running_ = threads - 1;
      generation_.fetch_add(1);
    }
    start_.notify_all();
    loop.run(0);
    for (int spin = 0; spin < 4000 && running_.load() > 0; ++spin) pause();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_.load() == 0; });
  }

  std::mutex caller;  // held by the one loop that the pool serves

 private:
  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void serve(int worker) {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < 2000 && generation_.load() == seen; ++spin) pause();
      Loop* loop;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        start_.wait(lock, [&] { return generation_.load() != seen; });
        seen = generation_.load();
        if (worker > helpers_) continue;
        loop = loop_;
      }
      loop->run(worker);
      {
        std::lock_guard<std::mutex> lock(mutex_);
        running_.fetch_sub(1);
      }
      done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable start_, done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> running_{0};
  Loop* loop_ = nullptr;
  int helpers_ = 0;
  std::vector<std::thread> workers_;
};

// The OpenMP threads that torch brings into the process. They stay awake for milliseconds after each of its operations,
// and threads of our own would have to share the processors with them; so they do our work too, where they are.
using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
Parallel openmp() {
  static const auto found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}
bool forked = false;  // a child inherits none of the OpenMP threads, and would wait for them for ever

// Never destroyed: its threads wait in it until the process ends. A forked child has none of them and starts anew.
Pool* pool = nullptr;

Pool& current_pool() {
  static const bool once = [] {
    pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] {
      pool = new Pool;
      forked = true;
    });
    return true;
  }();
  (void)once;
  return *pool;
}

}  // namespace

void parallel_for(int64_t count, int threads, void (*task)(void*, int, int64_t), void* context) {
  Loop loop;
  loop.count = count;
  loop.task = task;
  loop.context = context;
  if (threads > count) threads = static_cast<int>(count);
  if (threads <= 1) {
    loop.run(0);
  } else {
    Pool& p = current_pool();
    if (openmp() && !forked) {
      openmp()([](void* l) { static_cast<Loop*>(l)->run(static_cast<Loop*>(l)->workers.fetch_add(1)); }, &loop,
               static_cast<unsigned>(threads), 0);
      if (loop.error) std::rethrow_exception(loop.error);
      return;
    }
    std::unique_lock<std::mutex> alone(p.caller, std::try_to_lock);
    if (alone.owns_lock())
      p.run(loop, threads);
    else
      loop.run(0);
  }
  if (loop.error) std::rethrow_exception(loop.error);
}

}  // namespace voge
