// Everything, compiled once per instruction set: the including file defines VOGE_ISA and gets its own flags.
#pragma once
#include "cpu/trace.h"
#include "cpu/weigh.h"

VOGE_NAMESPACE_BEGIN

#define VOGE_STRING(x) VOGE_STRING_(x)
#define VOGE_STRING_(x) #x

static const Kernels kernels{VOGE_STRING(VOGE_ISA),
                             render_forward<float>,
                             render_forward<double>,
                             render_backward<float>,
                             render_backward<double>,
                             trace<float>,
                             trace<double>,
                             weigh<float>,
                             weigh<double>};

VOGE_NAMESPACE_END
