#include "hybrid_operator.h"

#include <cstdlib>
#include <cstring>
#include <limits>

#include "hybrid_conv.h"
#include "ort_kernel.h"

namespace optc {
namespace {

// Inputs in order; the last three with a residual only.
enum Input {
  kX, kXScale, kXZero, kBasis, kShift, kValues, kPositions, kLevels, kScale, kBias, kYScale, kYZero,
  kResidual, kResidualScale, kResidualZero, kInputs
};
constexpr OrtElementType kTypes[kInputs] = {
    ORT_UINT8, ORT_FLOAT, ORT_UINT8, ORT_INT8,  ORT_UINT8, ORT_UINT8, ORT_UINT8, ORT_INT8,
    ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_UINT8, ORT_UINT8, ORT_FLOAT, ORT_UINT8};

struct Operator : OrtCustomOp {
  const char* name;
  bool residual;
};

struct Kernel {
  HybridConv conv;
  const Operator& op;
};

HybridAttributes read_attributes(const OrtKernelInfo* info) {
  HybridAttributes attributes;
  attributes.conv.strides = ints(info, "strides");
  attributes.conv.pads = ints(info, "pads");
  attributes.conv.dilations = ints(info, "dilations");
  attributes.conv.coefficient_shape = ints(info, "coefficient_shape");
  attributes.conv.group = read_int(info, "group");
  attributes.conv.position_bits = read_int(info, "position_bits");
  attributes.value_bits = read_int(info, "value_bits");
  attributes.block = read_int(info, "block");
  attributes.lower = read_int(info, "lower");
  attributes.upper = read_int(info, "upper");
  attributes.response_offset = read_int(info, "offset", 0);
  return attributes;
}

HybridConstants read_constants(const OrtKernelInfo* info, bool residual) {
  const auto floats = [&](Input i, const char* name) {
    return constant<float>(info, i, name, ORT_FLOAT);
  };
  const auto bytes = [&](Input i, const char* name) {
    return constant<uint8_t>(info, i, name, ORT_UINT8);
  };
  HybridConstants constants;
  constants.x = {floats(kXScale, "x_scale"), bytes(kXZero, "x_zero_point")};
  constants.basis = constant<int8_t>(info, kBasis, "basis", ORT_INT8);
  constants.shift = bytes(kShift, "shift");
  constants.values = bytes(kValues, "values");
  constants.positions = bytes(kPositions, "positions");
  constants.levels = constant<int8_t>(info, kLevels, "levels", ORT_INT8);
  constants.scale = floats(kScale, "scale");
  if (is_present(info, kBias)) constants.bias = floats(kBias, "bias");
  constants.y = {floats(kYScale, "y_scale"), bytes(kYZero, "y_zero_point")};
  if (residual) {
    constants.residual = {floats(kResidualScale, "residual_scale"),
                          bytes(kResidualZero, "residual_zero_point")};
  }
  return constants;
}

// The form that OPTC_HYBRID_FORM asks for, for tests and measurements; null: none.
const Form* wanted_form() {
  static constexpr const char* kNames[] = {"pairs", "dense", "elements"};
  static constexpr Form kForms[] = {Form::kPairs, Form::kDense, Form::kElements};
  const char* wanted = std::getenv("OPTC_HYBRID_FORM");
  for (int i = 0; wanted != nullptr && i < 3; ++i) {
    if (std::strcmp(wanted, kNames[i]) == 0) return &kForms[i];
  }
  return nullptr;
}

OrtStatus* create_kernel(const OrtCustomOp* self, const OrtApi*, const OrtKernelInfo* info,
                         void** kernel) noexcept {
  const Operator& op = *static_cast<const Operator*>(self);
  return guarded(op.name, [&] {
    const HybridKernels* kernels = select_hybrid_kernels();
    if (kernels == nullptr) throw Error("OPTC_ISA names no instruction set of this processor");
    *kernel = new Kernel{{read_attributes(info), read_constants(info, op.residual), *kernels,
                          wanted_form()},
                         op};
  });
}

OrtStatus* compute(void* self, OrtKernelContext* context) noexcept {
  const Kernel& kernel = *static_cast<const Kernel*>(self);
  return guarded(kernel.op.name, [&] {
    const OrtValue *x = nullptr, *residual = nullptr;
    check(ort::GetInput::call(api, context, kX, &x), "X cannot be read");
    const std::vector<int64_t> x_shape = shape_of(x, ORT_UINT8);
    const std::vector<int64_t> shape = kernel.conv.output_shape(x_shape);
    if (kernel.op.residual) {
      check(ort::GetInput::call(api, context, kResidual, &residual), "residual cannot be read");
      if (shape_of(residual, ORT_UINT8) != shape) {
        throw Error("residual does not have the shape of the output");
      }
    }
    OrtValue* y = nullptr;
    check(ort::GetOutput::call(api, context, 0, shape.data(), shape.size(), &y),
          "Y cannot be allocated");
    ContextPool pool(context);
    kernel.conv.run(data_of<uint8_t>(x), x_shape, residual ? data_of<uint8_t>(residual) : nullptr,
                    const_cast<uint8_t*>(data_of<uint8_t>(y)), pool);
  });
}

Operator make_operator(const char* name, bool residual) {
  auto op = make_common<Operator, Kernel, kBias>(name);
  op.residual = residual;
  using Op = const OrtCustomOp*;
  op.GetInputType = [](Op, size_t index) { return kTypes[index]; };
  op.GetInputTypeCount = [](Op self) -> size_t {
    return static_cast<const Operator*>(self)->residual ? kInputs : kResidual;
  };
  op.GetOutputType = [](Op, size_t) { return ORT_UINT8; };
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute;
  return op;
}

}  // namespace

const OrtCustomOp* hybrid_operator(bool residual) {
  static const Operator plain = make_operator("HybridDecomposedConv", false);
  static const Operator add = make_operator("HybridDecomposedConvAdd", true);
  return residual ? &add : &plain;
}

}  // namespace optc
