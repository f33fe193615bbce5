"""The CUDA kernels on a CPU: csrc/cuda compiled as C++ against an emulator of threads, warps and shared memory."""
