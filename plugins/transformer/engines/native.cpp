// One position through all blocks of the Transformer. Names and order are those of layers.py,
// which is the readable form. Keys and values are read once for all the query heads they serve.
#include "matvec.h"

using namespace wishbone;

namespace {

struct Block {
    const float *norm_attention, *norm_ffn, *qkv_bias;
    Matrix qkv, output, gate_up, down;
};

struct Model {
    int64_t width, layers, heads, kv_heads, size;
    float norm_eps;
    const float *norm_out;
    const Block *blocks;
};

// What a step writes between its phases, [batch, ...] each; scores are [threads, share, slots].
struct Room {
    float *x, *normed, *qkv, *y, *out, *gate_up, *inner, *scores;
    int8_t *whole;
    int64_t whole_each, slots;
};

// Where the cache of one block lies: [batch, kv_heads, slots, size], slots far enough apart.
struct Cache {
    float *key, *value;
    int64_t key_stride, value_stride;  // numbers from one kv head to the next
};

void rms_norm(const float *x, const float *weight, float eps, int64_t n, float *out) {
    floats squares = {};
    for (int64_t i = 0; i < n; i += LANES) squares += load(x + i) * load(x + i);
    const float scale = 1.0f / std::sqrt(sum(squares) / n + eps);
    for (int64_t i = 0; i < n; i += LANES) store(out + i, load(x + i) * scale * load(weight + i));
}

// Channel j pairs with j + size / 2.
void rotate(float *x, const float *cosines, const float *sines, int64_t size) {
    for (int64_t j = 0; j < size / 2; ++j) {
        const float low = x[j], high = x[j + size / 2];
        x[j] = low * cosines[j] - high * sines[j];
        x[j + size / 2] = high * cosines[j] + low * sines[j];
    }
}

// Scores of SHARE query heads against `count` keys: out[h * slots + s].
template <int SHARE, int PARTS>
void score(const float *queries, const float *keys, int64_t count, int64_t size, float *out,
           int64_t slots) {
    const int64_t parts = PARTS ? PARTS : size / LANES;
    for (int64_t s = 0; s < count; ++s) {
        floats sums[SHARE] = {};
        for (int64_t j = 0; j < parts; ++j) {
            floats key = load(keys + s * size + j * LANES);
            fetch(keys + s * size + j * LANES);
            for (int h = 0; h < SHARE; ++h) sums[h] += key * load(queries + h * size + j * LANES);
        }
        for (int h = 0; h < SHARE; ++h) out[h * slots + s] = sum(sums[h]);
    }
}

// y[h] = sum over s of weight[h * slots + s] * values[s], for SHARE query heads.
template <int SHARE, int PARTS>
void gather(const float *weights, const float *values, int64_t count, int64_t size, float *y,
            int64_t slots) {
    floats sums[SHARE][PARTS] = {};
    for (int64_t s = 0; s < count; ++s) {
        floats value[PARTS];
        for (int j = 0; j < PARTS; ++j) {
            value[j] = load(values + s * size + j * LANES);
            fetch(values + s * size + j * LANES);
        }
        for (int h = 0; h < SHARE; ++h) {
            const float weight = weights[h * slots + s];
            for (int j = 0; j < PARTS; ++j) sums[h][j] += value[j] * weight;
        }
    }
    for (int h = 0; h < SHARE; ++h)
        for (int j = 0; j < PARTS; ++j) store(y + h * size + j * LANES, sums[h][j]);
}

// Any head size: one vector of channels at a time.
template <int SHARE>
void gather_parts(const float *weights, const float *values, int64_t count, int64_t size, float *y,
                  int64_t slots) {
    for (int64_t j = 0; j < size; j += LANES) {
        floats sums[SHARE] = {};
        for (int64_t s = 0; s < count; ++s) {
            floats value = load(values + s * size + j);
            for (int h = 0; h < SHARE; ++h) sums[h] += value * weights[h * slots + s];
        }
        for (int h = 0; h < SHARE; ++h) store(y + h * size + j, sums[h]);
    }
}

// Softmax in place over scores [slots], of which `count` are real; those behind become zero.
void softmax(float *scores, int64_t count) {
    const int64_t full = (count + LANES - 1) / LANES * LANES;
    for (int64_t s = count; s < full; ++s) scores[s] = -INFINITY;
    floats top = fill(-INFINITY);
    for (int64_t s = 0; s < full; s += LANES) top = larger(top, load(scores + s));
    float parts[LANES], most = -INFINITY;
    store(parts, top);
    for (float part : parts) most = std::fmax(most, part);
    floats total = {};
    for (int64_t s = 0; s < full; s += LANES) {
        floats e = exponential(load(scores + s) - most);
        store(scores + s, e);
        if (s + LANES > count) {
            for (int64_t i = count; i < full; ++i) scores[i] = 0;
            e = load(scores + s);
        }
        total += e;
    }
    const float scale = 1.0f / sum(total);
    for (int64_t s = 0; s < full; s += LANES) store(scores + s, load(scores + s) * scale);
}

template <int SHARE>
void attend(const float *queries, const float *keys, const float *values, int64_t count,
            int64_t size, float *scores, int64_t slots, float *y) {
    if (size == 64) score<SHARE, 4>(queries, keys, count, size, scores, slots);
    else score<SHARE, 0>(queries, keys, count, size, scores, slots);
    for (int h = 0; h < SHARE; ++h) softmax(scores + h * slots, count);
    if (size == 64) gather<SHARE, 4>(scores, values, count, size, y, slots);
    else gather_parts<SHARE>(scores, values, count, size, y, slots);
}

// All query heads of one kv head, at most six at a time; queries and y are [share, size].
void attend_group(int64_t share, const float *queries, const float *keys, const float *values,
                  int64_t count, int64_t size, float *scores, int64_t slots, float *y) {
    while (share > 0) {
        const int64_t part = share >= 6 ? 6 : share == 5 ? 3 : share;
        if (part == 1) attend<1>(queries, keys, values, count, size, scores, slots, y);
        if (part == 2) attend<2>(queries, keys, values, count, size, scores, slots, y);
        if (part == 3) attend<3>(queries, keys, values, count, size, scores, slots, y);
        if (part == 4) attend<4>(queries, keys, values, count, size, scores, slots, y);
        if (part == 6) attend<6>(queries, keys, values, count, size, scores, slots, y);
        share -= part;
        queries += part * size;
        y += part * size;
    }
}

struct Hand {
    float *next;
    float *take(int64_t count) {
        float *here = next;
        next += (count + 31) / 16 * 16;
        return here;
    }
};

Room room_of(const Model &m, int64_t batch, int64_t threads, int64_t slots, float *memory) {
    const Block &p = m.blocks[0];
    Hand hand = {memory};
    Room at = {};
    float **planes[] = {&at.x, &at.normed, &at.y, &at.out};
    for (float **place : planes) *place = hand.take(batch * m.width);
    at.qkv = hand.take(batch * p.qkv.rows);
    at.gate_up = hand.take(batch * p.gate_up.rows);
    at.inner = hand.take(batch * p.down.columns);
    at.slots = (slots + 31) / 16 * 16;
    at.scores = hand.take(threads * 6 * at.slots);
    const int64_t longest = p.down.columns > m.width ? p.down.columns : m.width;
    at.whole_each = 8 * longest;
    at.whole = (int8_t *)hand.next;
    return at;
}

struct Team {
    int thread, threads;
    int64_t batch;
    int8_t *whole;

    void project(const Matrix &m, const float *x, float *out) const {
        times_share(m, thread, threads, batch, x, m.columns, out, m.rows, whole);
    }

    // This thread's rows of m times `in`, added to x [batch, rows].
    void add(const Matrix &m, const float *in, float *out, float *x) const {
        project(m, in, out);
        Share part(m.rows / LANES, thread, threads);
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t i = part.first * LANES; i < part.last * LANES; ++i)
                x[b * m.rows + i] += out[b * m.rows + i];
    }
};

// One kv head of one sequence: turn, append to the cache, attend.
void attend_one(const Model &m, const Block &p, const Room &at, const Cache &cache, int64_t b,
                int64_t group, int64_t slot, const float *cosines, const float *sines,
                float *scores) {
    const int64_t share = m.heads / m.kv_heads, n = m.size;
    float *qkv = at.qkv + b * p.qkv.rows;
    float *queries = qkv + group * share * n, *key = qkv + (m.heads + group) * n;
    float *value = qkv + (m.heads + m.kv_heads + group) * n;
    if (p.qkv_bias) {
        const float *bias = p.qkv_bias;
        for (int64_t i = 0; i < share * n; ++i) queries[i] += bias[group * share * n + i];
        for (int64_t i = 0; i < n; ++i) key[i] += bias[(m.heads + group) * n + i];
        for (int64_t i = 0; i < n; ++i) value[i] += bias[(m.heads + m.kv_heads + group) * n + i];
    }
    for (int64_t h = 0; h < share; ++h) rotate(queries + h * n, cosines, sines, n);
    rotate(key, cosines, sines, n);
    const float scale = 1.0f / std::sqrt((float)n);
    for (int64_t i = 0; i < share * n; ++i) queries[i] *= scale;
    float *keys = cache.key + (b * m.kv_heads + group) * cache.key_stride;
    float *values = cache.value + (b * m.kv_heads + group) * cache.value_stride;
    std::memcpy(keys + slot * n, key, n * sizeof(float));
    std::memcpy(values + slot * n, value, n * sizeof(float));
    attend_group(share, queries, keys, values, slot + 1, n, scores, at.slots,
                 at.y + b * m.width + group * share * n);
}

}  // namespace

extern "C" {

// Bytes of `memory` that a step over `slots` positions needs.
int64_t transformer_memory(const Model *m, int64_t batch, int64_t threads, int64_t slots) {
    const Room at = room_of(*m, batch, threads, slots, nullptr);
    return (int64_t)(intptr_t)at.whole + threads * at.whole_each;
}

// x [batch, D] -> y [batch, D]. caches [layers]; the new position of row b goes to slot[b] and sees
// all before; cosines and sines [batch, size / 2]; slots is the largest slot plus one.
void transformer_step(const Model *model, int64_t batch, int64_t threads, const float *x, float *y,
                      const Cache *caches, const int64_t *slot, const float *cosines,
                      const float *sines, int64_t slots, float *memory) {
    const Model &m = *model;
    const Room at = room_of(m, batch, threads, slots, memory);
    const int64_t d = m.width, half = m.size / 2;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int thread = thread_number();
        const Team team = {thread, thread_count(), batch, at.whole + thread * at.whole_each};
        Share rows(batch, team.thread, team.threads);
        Share jobs(batch * m.kv_heads, team.thread, team.threads);
        for (int64_t b = rows.first; b < rows.last; ++b)
            std::memcpy(at.x + b * d, x + b * d, d * sizeof(float));
        for (int64_t i = 0; i < m.layers; ++i) {
            const Block &p = m.blocks[i];
            for (int64_t b = rows.first; b < rows.last; ++b)
                rms_norm(at.x + b * d, p.norm_attention, m.norm_eps, d, at.normed + b * d);
#pragma omp barrier
            team.project(p.qkv, at.normed, at.qkv);
#pragma omp barrier
            for (int64_t job = jobs.first; job < jobs.last; ++job) {
                const int64_t b = job / m.kv_heads, group = job % m.kv_heads;
                attend_one(m, p, at, caches[i], b, group, slot[b], cosines + b * half,
                           sines + b * half, at.scores + thread * 6 * at.slots);
            }
#pragma omp barrier
            team.add(p.output, at.y, at.out, at.x);
#pragma omp barrier
            for (int64_t b = rows.first; b < rows.last; ++b)
                rms_norm(at.x + b * d, p.norm_ffn, m.norm_eps, d, at.normed + b * d);
#pragma omp barrier
            team.project(p.gate_up, at.normed, at.gate_up);
#pragma omp barrier
            const int64_t inner = p.down.columns;
            Share part(inner / LANES, team.thread, team.threads);
            for (int64_t b = 0; b < batch; ++b) {
                for (int64_t j = part.first * LANES; j < part.last * LANES; j += LANES) {
                    const float *gate = at.gate_up + b * p.gate_up.rows + j;
                    store(at.inner + b * inner + j,
                          load(gate) * sigmoid(load(gate)) * load(gate + inner));
                }
            }
#pragma omp barrier
            team.add(p.down, at.inner, at.out, at.x);
#pragma omp barrier
        }
        for (int64_t b = rows.first; b < rows.last; ++b)
            rms_norm(at.x + b * d, m.norm_out, m.norm_eps, d, y + b * d);
    }
}
}
