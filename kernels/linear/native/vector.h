// Sixteen numbers at a time, in the vector extension that GCC and Clang share: one source for
// AVX-512, AVX2 and NEON. Functions here are exact to about one unit in the last place.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace wishbone {

constexpr int LANES = 16;

typedef float floats __attribute__((vector_size(64)));
typedef int32_t integers __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));

static inline floats load(const float *at) {
    floats v;
    std::memcpy(&v, at, sizeof v);
    return v;
}

static inline void store(float *at, floats v) { std::memcpy(at, &v, sizeof v); }

static inline words load_words(const void *at) {
    words v;
    std::memcpy(&v, at, sizeof v);
    return v;
}

static inline floats as_floats(words bits) {
    floats v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

static inline floats fill(float x) { return x - floats{}; }

static inline float sum(floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float parts[LANES];
    store(parts, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
    return parts[0];
#endif
}

static inline float largest(floats v) {
    float parts[LANES], most = 0;
    store(parts, v);
    for (int i = 0; i < LANES; ++i) most = std::fmax(most, parts[i]);
    return most;
}

static inline floats smaller(floats a, floats b) { return a < b ? a : b; }
static inline floats larger(floats a, floats b) { return a > b ? a : b; }

// e^x = 2^n e^r with |r| <= ln(2) / 2, where seven terms of the series leave 5e-9.
static inline floats exponential(floats x) {
    x = smaller(larger(x, fill(-87.0f)), fill(88.0f));
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    floats n = (x * 1.44269504088896341f + shift) - shift;
    floats r = x - n * 0.693359375f;
    r = r + n * 2.12194440054690583e-4f;
    floats p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    integers power = __builtin_convertvector(n, integers) + 127;
    return p * as_floats((words)(power << 23));
}

static inline floats sigmoid(floats x) { return 1.0f / (1.0f + exponential(-x)); }

// A share of `total` things for one of `count` threads: [first, last).
struct Share {
    int64_t first, last;
    Share(int64_t total, int thread, int count)
        : first(total * thread / count), last(total * (thread + 1) / count) {}
};

static inline int thread_number() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static inline int thread_count() {
#if defined(_OPENMP)
    return omp_get_num_threads();
#else
    return 1;
#endif
}

}  // namespace wishbone
