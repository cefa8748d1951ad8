// Runs a model of one input and one output with the native operators, through onnxruntime's C API.
//
//     optc build-ops --out .
//     c++ -std=c++17 -o run_model samples/cpp/run_model.cpp -I INCLUDE -L LIB -lonnxruntime
//     ./run_model small.onnx ./liboptc_ops.so input.f32 1 3 32 32
//
// `input.f32` holds the input as raw float32, the numbers are its shape; every output value is
// printed on a line. INCLUDE and LIB are those of an onnxruntime release. With the onnxruntime of
// pip, which has no headers, leave INCLUDE out and link onnxruntime/capi/libonnxruntime.so.*.
#include <cstdio>
#include <cstdlib>
#include <vector>

#if __has_include(<onnxruntime_c_api.h>)
#include <onnxruntime_c_api.h>
#else
#include "onnxruntime_c_api_subset.h"
#endif

namespace {

const OrtApi* api = nullptr;

[[noreturn]] void fail(const char* reason) {
  std::fprintf(stderr, "error: %s\n", reason);
  std::exit(1);
}

void check(OrtStatus* status) {
  if (status != nullptr) fail(api->GetErrorMessage(status));
}

std::vector<float> read_floats(const char* path, size_t count) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) fail("the input cannot be opened");
  std::vector<float> values(count + 1);  // one more, to see that the file ends
  const size_t read = std::fread(values.data(), sizeof(float), values.size(), file);
  std::fclose(file);
  if (read != count) fail("the input does not have the given shape");
  values.pop_back();
  return values;
}

OrtSession* open(const OrtEnv* env, const char* model, const char* library) {
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  check(api->CreateSessionOptions(&options));
  check(api->SetIntraOpNumThreads(options, 1));
  check(api->RegisterCustomOpsLibrary_V2(options, library));  // all that the native operators need
  check(api->CreateSession(env, model, options, &session));
  api->ReleaseSessionOptions(options);
  return session;
}

OrtValue* run(OrtSession* session, const OrtValue* input) {
  OrtAllocator* allocator = nullptr;
  char *input_name = nullptr, *output_name = nullptr;
  OrtValue* output = nullptr;
  check(api->GetAllocatorWithDefaultOptions(&allocator));
  check(api->SessionGetInputName(session, 0, allocator, &input_name));
  check(api->SessionGetOutputName(session, 0, allocator, &output_name));
  check(api->Run(session, nullptr, &input_name, &input, 1, &output_name, 1, &output));
  check(api->AllocatorFree(allocator, input_name));
  check(api->AllocatorFree(allocator, output_name));
  return output;
}

void print(OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  size_t count = 0;
  void* data = nullptr;
  check(api->GetTensorTypeAndShape(value, &info));
  check(api->GetTensorShapeElementCount(info, &count));
  check(api->GetTensorMutableData(value, &data));
  api->ReleaseTensorTypeAndShapeInfo(info);
  for (size_t i = 0; i < count; ++i) std::printf("%.9g\n", double(static_cast<float*>(data)[i]));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) fail("usage: run_model MODEL LIBRARY INPUT SIZE...");
  api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr) fail("this onnxruntime is older than its header");
  std::vector<int64_t> shape;
  size_t count = 1;
  for (int i = 4; i < argc; ++i) {
    shape.push_back(std::atoll(argv[i]));
    count *= size_t(shape.back());
  }
  std::vector<float> values = read_floats(argv[3], count);

  OrtEnv* env = nullptr;
  OrtMemoryInfo* memory = nullptr;
  OrtValue* input = nullptr;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "run_model", &env));
  OrtSession* session = open(env, argv[1], argv[2]);
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(api->CreateTensorWithDataAsOrtValue(memory, values.data(), count * sizeof(float),
                                            shape.data(), shape.size(),
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
  OrtValue* output = run(session, input);
  print(output);

  api->ReleaseValue(output);
  api->ReleaseValue(input);
  api->ReleaseMemoryInfo(memory);
  api->ReleaseSession(session);
  api->ReleaseEnv(env);
}
