// A custom-operator library that goes through the slots of ort_abi.h that need no session, when
// onnxruntime hands it its table; test_abi.py reads the findings.
#include "ort_abi.h"

namespace ort = optc::ort;

namespace {

OrtStatus* create_info(const OrtApi* api, OrtTensorTypeAndShapeInfo** info) {
  return ort::Function<57, OrtStatus*(OrtTensorTypeAndShapeInfo**)>::call(api, info);
}

OrtStatus* set_type(const OrtApi* api, OrtTensorTypeAndShapeInfo* info, OrtElementType type) {
  using Set = ort::Function<58, OrtStatus*(OrtTensorTypeAndShapeInfo*, OrtElementType)>;
  return Set::call(api, info, type);
}

OrtStatus* set_dims(const OrtApi* api, OrtTensorTypeAndShapeInfo* info, const int64_t* dims,
                    size_t rank) {
  using Set = ort::Function<59, OrtStatus*(OrtTensorTypeAndShapeInfo*, const int64_t*, size_t)>;
  return Set::call(api, info, dims, rank);
}

// 0, or the number of the first step that does not behave as the header says.
int first_wrong_step(const OrtApi* api) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  const int64_t dims[] = {2, 3, 5};
  if (create_info(api, &info) != nullptr || info == nullptr) return 2;
  if (set_type(api, info, ORT_UINT8) != nullptr) return 3;
  if (set_dims(api, info, dims, 3) != nullptr) return 4;
  OrtElementType type = ORT_UNDEFINED;
  if (ort::GetTensorElementType::call(api, info, &type) != nullptr || type != ORT_UINT8) return 5;
  size_t rank = 0;
  if (ort::GetDimensionsCount::call(api, info, &rank) != nullptr || rank != 3) return 6;
  int64_t read[3] = {};
  if (ort::GetDimensions::call(api, info, read, 3) != nullptr) return 7;
  if (read[0] != 2 || read[1] != 3 || read[2] != 5) return 8;
  ort::ReleaseTensorTypeAndShapeInfo::call(api, info);

  OrtStatus* status = ort::CreateStatus::call(api, ORT_INVALID_ARGUMENT, "message");
  if (__builtin_strcmp(ort::GetErrorMessage::call(api, status), "message") != 0) return 9;
  ort::ReleaseStatus::call(api, status);
  return 0;
}

}  // namespace

extern "C" {

const char* version = nullptr;
int wrong_step = -1;

OrtStatus* RegisterCustomOps(OrtSessionOptions*, const OrtApiBase* base) {
  version = base->GetVersionString();
  const OrtApi* api = base->GetApi(ort::kApiVersion);
  wrong_step = api == nullptr ? 1 : first_wrong_step(api);
  return nullptr;
}

}  // extern "C"
