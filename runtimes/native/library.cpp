// onnxruntime's view of the operators: registration, and errors as statuses.
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <limits>
#include <memory>
#include <string>

#include "decomposed_conv.h"
#include "ort_abi.h"

namespace optc {
namespace {

const OrtApi* api = nullptr;  // set once, by the first registration

// Throws Error, with onnxruntime's reason, where a call failed.
void check(OrtStatus* status, const char* what) {
  if (status == nullptr) return;
  const std::string reason = ort::GetErrorMessage::call(api, status);
  ort::ReleaseStatus::call(api, status);
  throw Error(std::string(what) + ": " + reason);
}

// Runs a callback; what it throws becomes a status. The name leads the message.
template <typename Body>
OrtStatus* guarded(const char* name, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    const std::string message = std::string(name) + ": " + error.what();
    return ort::CreateStatus::call(api, ORT_INVALID_ARGUMENT, message.c_str());
  } catch (...) {
    return ort::CreateStatus::call(api, ORT_FAIL, name);
  }
}

std::vector<int64_t> shape_of(const OrtValue* value, OrtElementType expected) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(ort::GetTensorTypeAndShape::call(api, value, &info), "an input is not a tensor");
  const auto release = [](OrtTensorTypeAndShapeInfo* p) {
    ort::ReleaseTensorTypeAndShapeInfo::call(api, p);
  };
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> owner(info, release);
  OrtElementType type = ORT_UNDEFINED;
  size_t rank = 0;
  check(ort::GetTensorElementType::call(api, info, &type), "an input has no element type");
  if (type != expected) throw Error("an input has the wrong element type");
  check(ort::GetDimensionsCount::call(api, info, &rank), "an input has no rank");
  std::vector<int64_t> shape(rank);
  check(ort::GetDimensions::call(api, info, shape.data(), rank), "an input has no shape");
  return shape;
}

template <typename T>
const T* data_of(const OrtValue* value) {
  void* data = nullptr;
  check(ort::GetTensorMutableData::call(api, const_cast<OrtValue*>(value), &data), "a tensor has no data");
  return static_cast<const T*>(data);
}

std::vector<int64_t> ints(const OrtKernelInfo* info, const char* name) {
  size_t count = 0;
  check(ort::GetAttributeInts::call(api, info, name, nullptr, &count), name);
  std::vector<int64_t> values(count);
  check(ort::GetAttributeInts::call(api, info, name, values.data(), &count), name);
  return values;
}

// Constant input `index`.
template <typename T>
Constant<T> constant(const OrtKernelInfo* info, size_t index, const char* name,
                     OrtElementType type) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(ort::GetConstantInput::call(api, info, index, &is_constant, &value), name);
  if (!is_constant || value == nullptr) {
    throw Error(std::string(name) + " must be a constant of the model");
  }
  Constant<T> constant;
  constant.shape = shape_of(value, type);
  constant.data = data_of<T>(value);
  return constant;
}

// Whether the node has input `index`: an optional input is left out at the end, or named "".
bool is_present(const OrtKernelInfo* info, size_t index) {
  size_t count = 0, bytes = 0;
  check(ort::KernelInfoGetInputCount::call(api, info, &count), "inputs cannot be counted");
  if (index >= count) return false;
  check(ort::KernelInfoGetInputName::call(api, info, index, nullptr, &bytes), "inputs have no names");
  return bytes > 1;  // the terminating zero counts
}

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
  check(ort::GetAttributeInt::call(api, info, "group", &attributes.group), "group");
  check(ort::GetAttributeInt::call(api, info, "position_bits", &attributes.position_bits),
        "position_bits");
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

// onnxruntime's threads.
struct ContextPool final : ThreadPool {
  const OrtKernelContext* context;

  explicit ContextPool(const OrtKernelContext* c) : context(c) {}

  void parallel_for(size_t count, void (*body)(void*, size_t), void* data) override {
    check(ort::ParallelFor::call(api, context, body, count, 0, data), "the thread pool failed");
  }
};

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
  Operator op = {};
  op.version = ort::kApiVersion;
  op.name = name;
  op.residual = residual, op.relu = relu, op.clip = clip;
  using Op = const OrtCustomOp*;
  op.GetName = [](Op self) { return static_cast<const Operator*>(self)->name; };
  op.GetExecutionProviderType = [](Op) -> const char* { return nullptr; };  // the CPU
  op.GetInputType = [](Op, size_t index) { return kInputTypes[index]; };
  op.GetInputTypeCount = [](Op self) -> size_t {
    return static_cast<const Operator*>(self)->residual ? 6 : 5;
  };
  op.GetInputCharacteristic = [](Op, size_t index) {
    return index == kBias ? ORT_OPTIONAL : ORT_REQUIRED;
  };
  op.GetInputMemoryType = [](Op, size_t) { return ORT_MEMORY_DEFAULT; };
  op.GetOutputType = [](Op, size_t) { return ORT_FLOAT; };
  op.GetOutputTypeCount = [](Op) -> size_t { return 1; };
  op.GetOutputCharacteristic = [](Op, size_t) { return ORT_REQUIRED; };
  op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = [](Op) { return 1; };
  op.GetVariadicInputHomogeneity = op.GetVariadicOutputHomogeneity = [](Op) { return 1; };
  // InferOutputShapeFn stays null: before it calls one, onnxruntime 1.22 reads the type of an
  // optional input that the node leaves out, and crashes.
  op.GetStartVersion = [](Op) { return 1; };
  op.GetEndVersion = [](Op) { return std::numeric_limits<int>::max(); };
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
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
  if (status == nullptr) return domain;
  ort::ReleaseStatus::call(api, status);
  return nullptr;
}

OrtStatus* register_operators(OrtSessionOptions* options, const OrtApiBase* base) {
  // Static initialisation is locked: sessions may be created on several threads at once.
  static const bool supported = (api = base->GetApi(ort::kApiVersion)) != nullptr;
  if (!supported) std::abort();  // cannot say so: every function that could is in the table
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
