#define VOGE_ISA avx2
#include "cpu/kernels.h"

namespace voge {
const Kernels* avx2_kernels() { return &avx2::kernels; }
}  // namespace voge
