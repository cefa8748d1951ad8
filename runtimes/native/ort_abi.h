// The part of onnxruntime's C ABI that a custom-operator library needs.
//
// The onnxruntime wheel ships no headers. Its ABI is a table of function pointers that only ever
// grows at the end, so the slots used here are declared by number; a test checks them against the
// installed library. Names and argument order are those of onnxruntime_c_api.h.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

enum OrtErrorCode { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum OrtElementType { ORT_UNDEFINED = 0, ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT8 = 3 };
enum OrtCharacteristic { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };
enum OrtMemoryType { ORT_MEMORY_DEFAULT = 0 };

struct OrtApi {
  void* const* slots() const { return reinterpret_cast<void* const*>(this); }
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// Version 20 of the struct: what comes later in it is never read by onnxruntime.
struct OrtCustomOp {
  uint32_t version;
  void* CreateKernel;  // superseded by CreateKernelV2
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  OrtElementType (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  OrtElementType (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void* KernelCompute;  // superseded by KernelComputeV2
  void (*KernelDestroy)(void* kernel);
  OrtCharacteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtMemoryType (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, void* context);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  void* GetMayInplace;
  void* ReleaseMayInplace;
  void* GetAliasMap;
  void* ReleaseAliasMap;
};
static_assert(sizeof(void*) == 8 && sizeof(OrtCustomOp) == 208, "64-bit layout of OrtCustomOp");

}  // extern "C"

namespace optc::ort {

constexpr uint32_t kApiVersion = 20;  // the lowest that has every slot used below

// One function of the table: slot number and signature.
template <size_t Slot, typename Signature>
struct Function;

template <size_t Slot, typename Result, typename... Args>
struct Function<Slot, Result(Args...)> {
  static Result call(const OrtApi* api, Args... args) {
    return reinterpret_cast<Result (*)(Args...)>(api->slots()[Slot])(args...);
  }
};

using CreateStatus = Function<0, OrtStatus*(OrtErrorCode, const char*)>;
using GetErrorMessage = Function<2, const char*(const OrtStatus*)>;
using CreateCustomOpDomain = Function<26, OrtStatus*(const char*, OrtCustomOpDomain**)>;
using CustomOpDomainAdd = Function<27, OrtStatus*(OrtCustomOpDomain*, const OrtCustomOp*)>;
using AddCustomOpDomain = Function<28, OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)>;
using GetTensorMutableData = Function<51, OrtStatus*(OrtValue*, void**)>;
using GetTensorElementType =
    Function<60, OrtStatus*(const OrtTensorTypeAndShapeInfo*, OrtElementType*)>;
using GetDimensionsCount = Function<61, OrtStatus*(const OrtTensorTypeAndShapeInfo*, size_t*)>;
using GetDimensions = Function<62, OrtStatus*(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)>;
using GetTensorTypeAndShape = Function<65, OrtStatus*(const OrtValue*, OrtTensorTypeAndShapeInfo**)>;
using GetAttributeFloat = Function<85, OrtStatus*(const OrtKernelInfo*, const char*, float*)>;
using GetAttributeInt = Function<86, OrtStatus*(const OrtKernelInfo*, const char*, int64_t*)>;
using GetInputCount = Function<88, OrtStatus*(const OrtKernelContext*, size_t*)>;
using GetInput = Function<90, OrtStatus*(const OrtKernelContext*, size_t, const OrtValue**)>;
using GetOutput =
    Function<91, OrtStatus*(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>;
using ReleaseStatus = Function<93, void(OrtStatus*)>;
using ReleaseTensorTypeAndShapeInfo = Function<99, void(OrtTensorTypeAndShapeInfo*)>;
using GetAttributeInts =
    Function<163, OrtStatus*(const OrtKernelInfo*, const char*, int64_t*, size_t*)>;
using KernelInfoGetInputCount = Function<230, OrtStatus*(const OrtKernelInfo*, size_t*)>;
using KernelInfoGetInputName = Function<232, OrtStatus*(const OrtKernelInfo*, size_t, char*, size_t*)>;
using GetConstantInput =
    Function<249, OrtStatus*(const OrtKernelInfo*, size_t, int*, const OrtValue**)>;
using ParallelFor =
    Function<274, OrtStatus*(const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t,
                             void*)>;

}  // namespace optc::ort
