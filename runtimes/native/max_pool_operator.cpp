#include "max_pool_operator.h"

#include <limits>

#include "max_pool.h"
#include "ort_kernel.h"

namespace optc {
namespace {

constexpr const char* kName = "QuantizedMaxPool";
constexpr size_t kNoOptionalInput = std::numeric_limits<size_t>::max();

struct Operator : OrtCustomOp {
  const char* name;
};

OrtStatus* create_kernel(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info,
                         void** kernel) noexcept {
  return guarded(kName, [&] {
    MaxPoolAttributes attributes;
    attributes.kernel_shape = ints(info, "kernel_shape");
    attributes.strides = ints(info, "strides");
    attributes.pads = ints(info, "pads");
    attributes.dilations = ints(info, "dilations");
    attributes.ceil_mode = read_int(info, "ceil_mode");
    *kernel = new MaxPool(attributes);
  });
}

OrtStatus* compute(void* self, OrtKernelContext* context) noexcept {
  const MaxPool& kernel = *static_cast<const MaxPool*>(self);
  return guarded(kName, [&] {
    const OrtValue* x = nullptr;
    check(ort::GetInput::call(api, context, 0, &x), "X cannot be read");
    const std::vector<int64_t> x_shape = shape_of(x, ORT_UINT8);
    const std::vector<int64_t> shape = kernel.output_shape(x_shape);
    OrtValue* y = nullptr;
    check(ort::GetOutput::call(api, context, 0, shape.data(), shape.size(), &y),
          "Y cannot be allocated");
    ContextPool pool(context);
    kernel.run(data_of<uint8_t>(x), x_shape, const_cast<uint8_t*>(data_of<uint8_t>(y)), pool);
  });
}

Operator make_operator() {
  auto op = make_common<Operator, MaxPool, kNoOptionalInput>(kName);
  using Op = const OrtCustomOp*;
  op.GetInputType = [](Op, size_t) { return ORT_UINT8; };
  op.GetInputTypeCount = [](Op) -> size_t { return 1; };
  op.GetOutputType = [](Op, size_t) { return ORT_UINT8; };
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute;
  return op;
}

}  // namespace

const OrtCustomOp* max_pool_operator() {
  static const Operator op = make_operator();
  return &op;
}

}  // namespace optc
