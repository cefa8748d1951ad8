// What the kernels of the library share: reading a node, and errors as statuses.
#pragma once

#include <exception>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "constants.h"
#include "ort_abi.h"
#include "thread_pool.h"

namespace optc {

inline const OrtApi* api = nullptr;  // set once, by the first registration

// Throws Error, with onnxruntime's reason, where a call failed.
inline void check(OrtStatus* status, const char* what) {
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

inline std::vector<int64_t> shape_of(const OrtValue* value, OrtElementType expected) {
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

inline int64_t read_int(const OrtKernelInfo* info, const char* name) {
  int64_t value = 0;
  check(ort::GetAttributeInt::call(api, info, name, &value), name);
  return value;
}

// An attribute that a node need not have.
inline int64_t read_int(const OrtKernelInfo* info, const char* name, int64_t otherwise) {
  int64_t value = 0;
  OrtStatus* const status = ort::GetAttributeInt::call(api, info, name, &value);
  if (status == nullptr) return value;
  ort::ReleaseStatus::call(api, status);
  return otherwise;
}

inline std::vector<int64_t> ints(const OrtKernelInfo* info, const char* name) {
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
inline bool is_present(const OrtKernelInfo* info, size_t index) {
  size_t count = 0, bytes = 0;
  check(ort::KernelInfoGetInputCount::call(api, info, &count), "inputs cannot be counted");
  if (index >= count) return false;
  check(ort::KernelInfoGetInputName::call(api, info, index, nullptr, &bytes),
        "inputs have no names");
  return bytes > 1;  // the terminating zero counts
}

// What all operators of the library share: one output, one input that may be left out, the CPU.
// `Operator` extends OrtCustomOp by its `name`; `Kernel` is what CreateKernelV2 will make.
template <typename Operator, typename Kernel, size_t kOptionalInput>
Operator make_common(const char* name) {
  using Op = const OrtCustomOp*;
  Operator op = {};
  op.version = ort::kApiVersion;
  op.name = name;
  op.GetName = [](Op self) { return static_cast<const Operator*>(self)->name; };
  op.GetExecutionProviderType = [](Op) -> const char* { return nullptr; };  // the CPU
  op.GetInputCharacteristic = [](Op, size_t index) {
    return index == kOptionalInput ? ORT_OPTIONAL : ORT_REQUIRED;
  };
  op.GetInputMemoryType = [](Op, size_t) { return ORT_MEMORY_DEFAULT; };
  op.GetOutputTypeCount = [](Op) -> size_t { return 1; };
  op.GetOutputCharacteristic = [](Op, size_t) { return ORT_REQUIRED; };
  op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = [](Op) { return 1; };
  op.GetVariadicInputHomogeneity = op.GetVariadicOutputHomogeneity = [](Op) { return 1; };
  // InferOutputShapeFn stays null: before it calls one, onnxruntime 1.22 reads the type of an
  // optional input that the node leaves out, and crashes.
  op.GetStartVersion = [](Op) { return 1; };
  op.GetEndVersion = [](Op) { return std::numeric_limits<int>::max(); };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

// onnxruntime's threads.
struct ContextPool final : ThreadPool {
  const OrtKernelContext* context;

  explicit ContextPool(const OrtKernelContext* c) : context(c) {}

  void parallel_for(size_t count, void (*body)(void*, size_t), void* data) override {
    check(ort::ParallelFor::call(api, context, body, count, 0, data), "the thread pool failed");
  }
};

}  // namespace optc
