#define VOGE_ISA avx512
#include "cpu/kernels.h"

namespace voge {
const Kernels* avx512_kernels() { return &avx512::kernels; }
}  // namespace voge
