#define VOGE_ISA baseline
#include "cpu/kernels.h"

namespace voge {
const Kernels* baseline_kernels() { return &baseline::kernels; }
}  // namespace voge
