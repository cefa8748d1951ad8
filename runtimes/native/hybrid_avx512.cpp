// AVX-512 with VNNI: 64 products of bytes an instruction. VBMI permutes a window in one.
#include "hybrid_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // of gcc 12's own headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2")

namespace optc {
namespace hybrid_avx512vnni {
namespace {

constexpr bool kDirect = false;
#include "hybrid_avx512_impl.h"
#include "hybrid_windows_impl.h"
#include "hybrid_responses_impl.h"
#include "hybrid_rows_impl.h"

}  // namespace
}  // namespace hybrid_avx512vnni

#pragma GCC target("avx512vbmi")

namespace hybrid_avx512 {
namespace {

constexpr bool kDirect = true;
#include "hybrid_avx512_impl.h"
#include "hybrid_windows_impl.h"
#include "hybrid_responses_impl.h"
#include "hybrid_rows_impl.h"

}  // namespace
}  // namespace hybrid_avx512

extern const HybridKernels hybrid_avx512vnni_kernels = {
    "avx512vnni", hybrid_avx512vnni::kOffset, hybrid_avx512vnni::pair_responses,
    hybrid_avx512vnni::element_responses, hybrid_avx512vnni::pair_rows,
    hybrid_avx512vnni::dense_rows, hybrid_avx512vnni::element_rows};

extern const HybridKernels hybrid_avx512_kernels = {
    "avx512", hybrid_avx512::kOffset, hybrid_avx512::pair_responses,
    hybrid_avx512::element_responses, hybrid_avx512::pair_rows, hybrid_avx512::dense_rows,
    hybrid_avx512::element_rows};

}  // namespace optc

#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
