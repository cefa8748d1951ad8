// The operators HybridDecomposedConv and HybridDecomposedConvAdd as onnxruntime sees them.
#pragma once

#include "ort_abi.h"

namespace optc {

// Never freed: onnxruntime keeps pointers to it.
const OrtCustomOp* hybrid_operator(bool residual);

}  // namespace optc
