// onnxruntime's view of the operators: registration.
#include <limits>

#include "decomposed_conv.h"
#include "hybrid_kernels.h"
#include "hybrid_operator.h"
#include "max_pool_operator.h"
#include "ort_kernel.h"

namespace optc {
namespace {

// One operator name: what it adds to the convolution.
struct Operator : OrtCustomOp {
  const char* name;
  bool residual, relu, clip;
};

Attributes read_attributes(const Operator& op, const OrtKernelInfo* info) {
  Attributes attributes;
  attributes.strides = ints(info, "strides");
  attributes.pads = ints(info, "pads");
  attributes.dilations = ints(info, "dilations");
  attributes.coefficient_shape = ints(info, "coefficient_shape");
  attributes.group = read_int(info, "group");
  attributes.position_bits = read_int(info, "position_bits");
  attributes.clamp = op.relu || op.clip;
  attributes.upper = std::numeric_limits<float>::infinity();
  if (op.clip) {
    check(ort::GetAttributeFloat::call(api, info, "lower", &attributes.lower), "lower");
    check(ort::GetAttributeFloat::call(api, info, "upper", &attributes.upper), "upper");
  }
  return attributes;
}

struct Kernel {
  DecomposedConv conv;
  const Operator& op;
};

OrtStatus* create_kernel(const OrtCustomOp* self, const OrtApi*, const OrtKernelInfo* info,
                         void** kernel) noexcept {
  const Operator& op = *static_cast<const Operator*>(self);
  return guarded(op.name, [&] {
    const Kernels* kernels = select_kernels();
    if (kernels == nullptr) throw Error("OPTC_ISA names no instruction set of this processor");
    Constants constants;
    constants.basis = constant<float>(info, 1, "basis", ORT_FLOAT);
    constants.values = constant<float>(info, 2, "values", ORT_FLOAT);
    constants.positions = constant<uint8_t>(info, 3, "positions", ORT_UINT8);
    if (is_present(info, 4)) constants.bias = constant<float>(info, 4, "bias", ORT_FLOAT);
    *kernel = new Kernel{{read_attributes(op, info), constants, *kernels}, op};
  });
}

OrtStatus* compute(void* self, OrtKernelContext* context) noexcept {
  const Kernel& kernel = *static_cast<const Kernel*>(self);
  return guarded(kernel.op.name, [&] {
    const OrtValue *x = nullptr, *residual = nullptr;
    check(ort::GetInput::call(api, context, 0, &x), "X cannot be read");
    const std::vector<int64_t> x_shape = shape_of(x, ORT_FLOAT);
    const std::vector<int64_t> shape = kernel.conv.output_shape(x_shape);
    if (kernel.op.residual) {
      check(ort::GetInput::call(api, context, 5, &residual), "residual cannot be read");
      if (shape_of(residual, ORT_FLOAT) != shape) {
        throw Error("residual does not have the shape of the output");
      }
    }
    OrtValue* y = nullptr;
    check(ort::GetOutput::call(api, context, 0, shape.data(), shape.size(), &y), "Y cannot be allocated");
    ContextPool pool(context);
    kernel.conv.run(data_of<float>(x), x_shape, residual ? data_of<float>(residual) : nullptr,
                    const_cast<float*>(data_of<float>(y)), pool);
  });
}

constexpr OrtElementType kInputTypes[] = {ORT_FLOAT, ORT_FLOAT, ORT_FLOAT,
                                          ORT_UINT8, ORT_FLOAT, ORT_FLOAT};
constexpr size_t kBias = 4;
constexpr int kOperators = 6;

Operator make_operator(const char* name, bool residual, bool relu, bool clip) {
  auto op = make_common<Operator, Kernel, kBias>(name);
  op.residual = residual, op.relu = relu, op.clip = clip;
  using Op = const OrtCustomOp*;
  op.GetInputType = [](Op, size_t index) { return kInputTypes[index]; };
  op.GetInputTypeCount = [](Op self) -> size_t {
    return static_cast<const Operator*>(self)->residual ? 6 : 5;
  };
  op.GetOutputType = [](Op, size_t) { return ORT_FLOAT; };
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute;
  return op;
}

// onnxruntime keeps pointers to the operators and the domain, so neither is ever freed.
const Operator* operators() {
  static const Operator all[kOperators] = {
      make_operator("DecomposedConv", false, false, false),
      make_operator("DecomposedConvRelu", false, true, false),
      make_operator("DecomposedConvClip", false, false, true),
      make_operator("DecomposedConvAdd", true, false, false),
      make_operator("DecomposedConvAddRelu", true, true, false),
      make_operator("DecomposedConvAddClip", true, false, true),
  };
  return all;
}

// The domain with all operators; null where onnxruntime refuses it. Never freed: see above.
OrtCustomOpDomain* make_domain() {
  OrtCustomOpDomain* domain = nullptr;
  OrtStatus* status = ort::CreateCustomOpDomain::call(api, "optc", &domain);
  for (int i = 0; status == nullptr && i < kOperators; ++i) {
    status = ort::CustomOpDomainAdd::call(api, domain, &operators()[i]);
  }
  for (const bool residual : {false, true}) {
    if (status != nullptr) break;
    status = ort::CustomOpDomainAdd::call(api, domain, hybrid_operator(residual));
  }
  if (status == nullptr) status = ort::CustomOpDomainAdd::call(api, domain, max_pool_operator());
  if (status == nullptr) return domain;
  ort::ReleaseStatus::call(api, status);
  return nullptr;
}

OrtStatus* register_operators(OrtSessionOptions* options, const OrtApiBase* base) {
  // Static initialisation is locked: sessions may be created on several threads at once.
  static const bool supported = (api = base->GetApi(ort::kApiVersion)) != nullptr;
  if (!supported) {
    const OrtApi* oldest = base->GetApi(1);  // in which CreateStatus had its slot already
    return ort::CreateStatus::call(oldest, ORT_FAIL, "optc needs onnxruntime 1.20 or later");
  }
  static OrtCustomOpDomain* const domain = make_domain();
  if (domain == nullptr) {
    return ort::CreateStatus::call(api, ORT_FAIL, "the optc operators cannot be registered");
  }
  return ort::AddCustomOpDomain::call(api, options, domain);
}

}  // namespace
}  // namespace optc

#define OPTC_EXPORT extern "C" __attribute__((visibility("default")))

// Called by onnxruntime, for every session that uses the library.
OPTC_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  return optc::register_operators(options, base);
}

// Name of the kernels in use, or null: see select_kernels.
OPTC_EXPORT const char* OptcInstructionSet() {
  const optc::Kernels* kernels = optc::select_kernels();
  return kernels == nullptr ? nullptr : kernels->isa;
}

// Likewise of the 8-bit kernels: see select_hybrid_kernels.
OPTC_EXPORT const char* OptcHybridInstructionSet() {
  const optc::HybridKernels* kernels = optc::select_hybrid_kernels();
  return kernels == nullptr ? nullptr : kernels->isa;
}
