// The matrix-vector product of a decoding step: read a matrix once, as fast as memory gives it.
//
// A packed matrix is cut into blocks of 16 rows. Inside a block the 16 rows lie side by side, one
// in each lane, so that a product never adds across lanes; columns follow one another, and the
// whole model is one straight walk through memory. Per lane a block holds
//   float32   one column in 4 bytes,
//   bfloat16  two columns in 4 bytes, the earlier one in the low half,
//   int8      four columns in 4 bytes, each as value + 128, and a scale for every row.
// Sums are float32. The vector is never rounded, except that for int8 it becomes two signed bytes
// a number, 256 high + low: sixteen bits of its largest number, finer than the weights by far.
#pragma once

#include "vector.h"

namespace wishbone {

enum Kind : int64_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

struct Matrix {
    const void *data;
    const float *scale;  // [rows], int8 alone
    int64_t rows;        // a multiple of 16
    int64_t columns;     // a multiple of 4
    int64_t kind;
};

constexpr int64_t AHEAD = 4096;  // bytes to ask for in advance; 256 to 8192 measured alike but for the shortest

static inline void fetch(const void *at) { __builtin_prefetch((const char *)at + AHEAD, 0, 3); }

template <int B>
static inline void block_float32(const float *w, int64_t columns, const float *x, int64_t stride,
                                 floats *out) {
    constexpr int CHAINS = B == 1 ? 4 : B == 2 ? 2 : 1;
    floats sums[B][CHAINS] = {};
    for (int64_t c = 0; c < columns; c += 4) {
        for (int j = 0; j < 4; ++j) {
            floats row = load(w + (c + j) * LANES);
            fetch(w + (c + j) * LANES);
            for (int b = 0; b < B; ++b) sums[b][j % CHAINS] += row * x[b * stride + c + j];
        }
    }
    for (int b = 0; b < B; ++b) {
        out[b] = sums[b][0];
        for (int i = 1; i < CHAINS; ++i) out[b] += sums[b][i];
    }
}

template <int B>
static inline void block_bfloat16(const uint32_t *w, int64_t columns, const float *x,
                                  int64_t stride, floats *out) {
    constexpr int CHAINS = B == 1 ? 4 : 2;
    floats sums[B][CHAINS] = {};
    for (int64_t c = 0; c < columns; c += 4) {
        for (int j = 0; j < 2; ++j) {
            words pair = load_words(w + (c / 2 + j) * LANES);
            fetch(w + (c / 2 + j) * LANES);
            floats low = as_floats(pair << 16), high = as_floats(pair & 0xffff0000u);
            for (int b = 0; b < B; ++b) {
                const float *at = x + b * stride + c + 2 * j;
                sums[b][2 * j % CHAINS] += low * at[0];
                sums[b][(2 * j + 1) % CHAINS] += high * at[1];
            }
        }
    }
    for (int b = 0; b < B; ++b) {
        out[b] = sums[b][0];
        for (int i = 1; i < CHAINS; ++i) out[b] += sums[b][i];
    }
}

// A vector as whole numbers: x = scale * (256 high + low).
struct Whole {
    int8_t *high, *low;
    float scale;
    int32_t high_sum, low_sum;
};

static inline void to_whole(const float *x, int64_t columns, Whole *q) {
    float most = 0;
    floats top = {};
    int64_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        floats v = load(x + c);
        top = larger(top, larger(v, -v));
    }
    most = largest(top);
    for (; c < columns; ++c) most = std::fmax(most, std::fabs(x[c]));
    q->scale = most / 32512.0f;
    const float back = most > 0 ? 32512.0f / most : 0.0f;
    q->high_sum = q->low_sum = 0;
    for (c = 0; c < columns; ++c) {
        int32_t n = (int32_t)std::nearbyint(x[c] * back);
        int32_t high = (n + 128) >> 8;
        int32_t low = n - high * 256;
        q->high[c] = (int8_t)high;
        q->low[c] = (int8_t)low;
        q->high_sum += high;
        q->low_sum += low;
    }
}

#if defined(__AVX512VNNI__)
template <int B>
static inline void block_int8(const uint8_t *w, int64_t columns, const Whole *q,
                              const float *scale, floats *out) {
    __m512i high[B], low[B];
    for (int b = 0; b < B; ++b) high[b] = low[b] = _mm512_setzero_si512();
    for (int64_t c = 0; c < columns; c += 4) {
        __m512i row = _mm512_loadu_si512(w + c * LANES);
        fetch(w + c * LANES);
        for (int b = 0; b < B; ++b) {
            int32_t top, bottom;
            std::memcpy(&top, q[b].high + c, 4);
            std::memcpy(&bottom, q[b].low + c, 4);
            high[b] = _mm512_dpbusd_epi32(high[b], row, _mm512_set1_epi32(top));
            low[b] = _mm512_dpbusd_epi32(low[b], row, _mm512_set1_epi32(bottom));
        }
    }
    for (int b = 0; b < B; ++b) {
        // every weight was stored 128 too high
        integers tops = (integers)high[b] - 128 * q[b].high_sum;
        integers bottoms = (integers)low[b] - 128 * q[b].low_sum;
        floats both = __builtin_convertvector(tops, floats) * 256.0f;
        both += __builtin_convertvector(bottoms, floats);
        out[b] = both * load(scale) * q[b].scale;
    }
}
#endif

template <int B>
static inline void block_int8_plain(const uint8_t *w, int64_t columns, const float *x,
                                    int64_t stride, const float *scale, floats *out) {
    floats sums[B][4] = {};
    for (int64_t c = 0; c < columns; c += 4) {
        words row = load_words(w + c * LANES);
        for (int j = 0; j < 4; ++j) {
            integers value = (integers)((row >> (8 * j)) & 255u) - 128;
            floats column = __builtin_convertvector(value, floats);
            for (int b = 0; b < B; ++b) sums[b][j] += column * x[b * stride + c + j];
        }
    }
    for (int b = 0; b < B; ++b) {
        out[b] = ((sums[b][0] + sums[b][1]) + (sums[b][2] + sums[b][3])) * load(scale);
    }
}

// Rows [first, last) of m times x [B, stride], to out [B, out_stride]; both are multiples of 16.
// `whole` is room for 2 * B * columns bytes.
template <int B>
static void rows_times(const Matrix &m, int64_t first, int64_t last, const float *x,
                       int64_t stride, float *out, int64_t out_stride, int8_t *whole) {
    floats sums[B];
#if defined(__AVX512VNNI__)
    Whole q[B] = {};
    if (m.kind == INT8) {
        for (int b = 0; b < B; ++b) {
            q[b].high = whole + 2 * b * m.columns;
            q[b].low = q[b].high + m.columns;
            to_whole(x + b * stride, m.columns, &q[b]);
        }
    }
#endif
    for (int64_t row = first; row < last; row += LANES) {
        const int64_t at = row * m.columns;
        if (m.kind == FLOAT32) {
            block_float32<B>((const float *)m.data + at, m.columns, x, stride, sums);
        } else if (m.kind == BFLOAT16) {
            block_bfloat16<B>((const uint32_t *)m.data + at / 2, m.columns, x, stride, sums);
        } else {
            const uint8_t *w = (const uint8_t *)m.data + at;
#if defined(__AVX512VNNI__)
            block_int8<B>(w, m.columns, q, m.scale + row, sums);
#else
            block_int8_plain<B>(w, m.columns, x, stride, m.scale + row, sums);
#endif
        }
        for (int b = 0; b < B; ++b) store(out + b * out_stride + row, sums[b]);
    }
}

// The same for any batch, four vectors at a time.
static inline void times(const Matrix &m, int64_t first, int64_t last, int64_t batch,
                         const float *x, int64_t stride, float *out, int64_t out_stride,
                         int8_t *whole) {
    while (batch > 0) {
        const int64_t part = batch >= 4 ? 4 : batch;
        if (part == 1) rows_times<1>(m, first, last, x, stride, out, out_stride, whole);
        if (part == 2) rows_times<2>(m, first, last, x, stride, out, out_stride, whole);
        if (part == 3) rows_times<3>(m, first, last, x, stride, out, out_stride, whole);
        if (part == 4) rows_times<4>(m, first, last, x, stride, out, out_stride, whole);
        batch -= part;
        x += part * stride;
        out += part * out_stride;
    }
}

// This thread's share of all rows.
static inline void times_share(const Matrix &m, int thread, int threads, int64_t batch,
                               const float *x, int64_t stride, float *out, int64_t out_stride,
                               int8_t *whole) {
    Share blocks(m.rows / LANES, thread, threads);
    times(m, blocks.first * LANES, blocks.last * LANES, batch, x, stride, out, out_stride, whole);
}

}  // namespace wishbone
