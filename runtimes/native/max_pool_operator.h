// The operator QuantizedMaxPool as onnxruntime sees it.
#pragma once

#include "ort_abi.h"

namespace optc {

// Never freed: onnxruntime keeps pointers to it.
const OrtCustomOp* max_pool_operator();

}  // namespace optc
