// One position through all blocks of an RWKV-7. Names and order are those of step.py, which is the
// readable form; equations in formula.py. Every phase ends where the next needs what others made.
#include "matvec.h"

using namespace wishbone;

namespace {

constexpr int64_t LARGEST = 256;  // head size
constexpr float DECAY = 0.60653065971263342f;  // exp(-1/2)

struct Block {
    const float *norm_time_weight, *norm_time_bias, *mix;
    const float *w0, *a0, *v0, *k_k, *k_a, *r_k, *head_weight, *head_bias;
    const float *norm_channel_weight, *norm_channel_bias, *channel_mix;
    Matrix receptance, key, value, w1, a1, v1, g1;
    Matrix w2, a2, v2, g2, output, channel_key, channel_value;
};

struct Model {
    int64_t width, layers, heads, size;
    float head_eps, norm_eps;
    const float *norm_in_weight, *norm_in_bias, *norm_out_weight, *norm_out_bias;
    const Block *blocks;
};

// What a step writes between its phases, [batch, ...] each.
struct Room {
    float *x, *mixed, *r, *k, *v, *first, *low[4], *raw_w, *raw_a, *raw_v, *gate, *y, *out, *inner;
    int8_t *whole;
    int64_t whole_each;
};

void layer_norm(const float *x, const float *weight, const float *bias, float eps, int64_t n,
                float *out) {
    floats total = {};
    for (int64_t i = 0; i < n; i += LANES) total += load(x + i);
    const float mean = sum(total) / n;
    floats squares = {};
    for (int64_t i = 0; i < n; i += LANES) {
        floats d = load(x + i) - mean;
        squares += d * d;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / n + eps);
    for (int64_t i = 0; i < n; i += LANES) {
        store(out + i, (load(x + i) - mean) * scale * load(weight + i) + load(bias + i));
    }
}

// h + (carry - h) * mix, for each of `count` rows of mix; out is [count, batch, n].
void shift(const float *h, const float *carry, const float *mix, int64_t count, int64_t n,
           int64_t batch, float *out) {
    for (int64_t i = 0; i < n; i += LANES) {
        floats now = load(h + i), difference = load(carry + i) - now;
        for (int64_t j = 0; j < count; ++j)
            store(out + j * batch * n + i, now + difference * load(mix + j * n + i));
    }
}

struct HeadInput {
    const float *r, *w, *k, *v, *a, *b;  // w is the decay, a the row that reads
};

// S <- S diag(w) + (S a) b^T + v k^T and y = S r, for one head; rows of S are values.
template <int PARTS>
void wkv(const float *state, float *after, const HeadInput &in, int64_t size, float *y) {
    const int64_t parts = PARTS ? PARTS : size / LANES;
    for (int64_t i = 0; i < size; ++i) {
        const float *row = state + i * size;
        float *to = after + i * size;
        floats read = {};
        for (int64_t j = 0; j < parts; ++j) read += load(row + j * LANES) * load(in.a + j * LANES);
        const float removed = sum(read), value = in.v[i];
        floats seen = {};
        for (int64_t j = 0; j < parts; ++j) {
            const int64_t at = j * LANES;
            floats now = load(row + at) * load(in.w + at) + removed * load(in.b + at);
            now += value * load(in.k + at);
            store(to + at, now);
            seen += now * load(in.r + at);
        }
        y[i] = sum(seen);
    }
}

// Everything between the projections, for head `head` of sequence b.
void head_step(const Model &m, const Block &p, const Room &at, int64_t head, int64_t b,
               bool is_first, const float *state, float *after) {
    const int64_t n = m.size, start = head * n, here = b * m.width + start;
    alignas(64) float w[LARGEST], k[LARGEST], v[LARGEST], read[LARGEST], write[LARGEST];
    alignas(64) float y[LARGEST];
    floats length = {}, bonus = {};
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t d = start + i, e = here + i;
        store(w + i, exponential(sigmoid(load(at.raw_w + e) + load(p.w0 + d)) * -DECAY));
        floats value = load(at.v + e);
        if (is_first) {
            store(at.first + e, value);
        } else {
            floats share = sigmoid(load(at.raw_v + e) + load(p.v0 + d));
            value += share * (load(at.first + e) - value);
        }
        store(v + i, value);
        floats direction = load(at.k + e) * load(p.k_k + d);
        store(read + i, direction);
        length += direction * direction;
    }
    const float scale = 1.0f / std::fmax(std::sqrt(sum(length)), 1e-12f);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t d = start + i, e = here + i;
        floats a = sigmoid(load(at.raw_a + e) + load(p.a0 + d));
        floats direction = load(read + i) * scale, key = load(at.k + e);
        key += key * (a - 1.0f) * load(p.k_a + d);
        store(read + i, -direction);
        store(write + i, direction * a);
        store(k + i, key);
        bonus += load(at.r + e) * key * load(p.r_k + d);
    }
    const HeadInput in = {at.r + here, w, k, v, read, write};
    if (n == 64) wkv<4>(state, after, in, n, y);
    else wkv<0>(state, after, in, n, y);
    layer_norm(y, p.head_weight + start, p.head_bias + start, m.head_eps, n, y);
    const float extra = sum(bonus);
    for (int64_t i = 0; i < n; i += LANES)
        store(at.y + here + i, (load(y + i) + extra * load(v + i)) * load(at.gate + here + i));
}

void bend(float *x, int64_t first, int64_t last, int kind) {
    for (int64_t i = first; i < last; ++i) {
        if (kind == 0) x[i] = std::tanh(x[i]);
        if (kind == 1) x[i] = 1.0f / (1.0f + std::exp(-x[i]));
        if (kind == 2) x[i] = x[i] > 0 ? x[i] * x[i] : 0.0f;
    }
}

struct Team {
    int thread, threads;
    int64_t batch;
    int8_t *whole;

    // This thread's rows of m times x [batch, columns], and their bend, to out [batch, rows].
    void project(const Matrix &m, const float *x, float *out, int kind = -1) const {
        Share part(m.rows / LANES, thread, threads);
        const int64_t first = part.first * LANES, last = part.last * LANES;
        times(m, first, last, batch, x, m.columns, out, m.rows, whole);
        for (int64_t b = 0; b < batch && kind >= 0; ++b) bend(out + b * m.rows, first, last, kind);
    }

    // The same, added to x [batch, rows].
    void add(const Matrix &m, const float *in, float *out, float *x) const {
        project(m, in, out);
        Share part(m.rows / LANES, thread, threads);
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t i = part.first * LANES; i < part.last * LANES; ++i)
                x[b * m.rows + i] += out[b * m.rows + i];
    }
};

void time_mix(const Model &m, const Block &p, const Room &at, const Team &team, bool is_first,
              const float *wkv_before, float *wkv_after) {
    const int64_t plane = team.batch * m.width;
    const float *x_r = at.mixed, *x_w = x_r + plane, *x_k = x_w + plane, *x_v = x_k + plane;
    const float *x_a = x_v + plane, *x_g = x_a + plane;
    team.project(p.receptance, x_r, at.r);
    team.project(p.key, x_k, at.k);
    team.project(p.value, x_v, at.v);
    team.project(p.w1, x_w, at.low[0], 0);
    team.project(p.a1, x_a, at.low[1]);
    team.project(p.g1, x_g, at.low[3], 1);
    if (!is_first) team.project(p.v1, x_v, at.low[2]);
#pragma omp barrier
    Share heads(m.heads, team.thread, team.threads);
    const int64_t first = heads.first * m.size, last = heads.last * m.size, d = m.width;
    times(p.w2, first, last, team.batch, at.low[0], p.w2.columns, at.raw_w, d, team.whole);
    times(p.a2, first, last, team.batch, at.low[1], p.a2.columns, at.raw_a, d, team.whole);
    if (!is_first)
        times(p.v2, first, last, team.batch, at.low[2], p.v2.columns, at.raw_v, d, team.whole);
    times(p.g2, first, last, team.batch, at.low[3], p.g2.columns, at.gate, d, team.whole);
    for (int64_t b = 0; b < team.batch; ++b) {
        for (int64_t head = heads.first; head < heads.last; ++head) {
            const int64_t lies = (b * m.heads + head) * m.size * m.size;
            head_step(m, p, at, head, b, is_first, wkv_before + lies, wkv_after + lies);
        }
    }
#pragma omp barrier
    team.add(p.output, at.y, at.out, at.x);
}

// Hands out float32 memory for one step, a cache line apart.
struct Hand {
    float *next;
    float *take(int64_t count) {
        float *here = next;
        next += (count + 31) / 16 * 16;
        return here;
    }
};

Room room_of(const Model &m, int64_t batch, float *memory) {
    const Block &p = m.blocks[m.layers - 1];
    const int64_t plane = batch * m.width;
    const Matrix *low[4] = {&p.w1, &p.a1, &p.v1, &p.g1};
    Hand hand = {memory};
    Room at = {};
    float **planes[] = {&at.x, &at.r, &at.k, &at.v, &at.first, &at.raw_w, &at.raw_a, &at.raw_v,
                        &at.gate, &at.y, &at.out};
    for (float **place : planes) *place = hand.take(plane);
    at.mixed = hand.take(6 * plane);
    for (int i = 0; i < 4; ++i) at.low[i] = hand.take(batch * low[i]->rows);
    at.inner = hand.take(batch * p.channel_key.rows);
    const int64_t longest = p.channel_key.rows > m.width ? p.channel_key.rows : m.width;
    at.whole_each = 8 * longest;
    at.whole = (int8_t *)hand.next;
    return at;
}

}  // namespace

extern "C" {

// Bytes of `memory` that a step needs.
int64_t rwkv7_memory(const Model *m, int64_t batch, int64_t threads) {
    const Room at = room_of(*m, batch, nullptr);
    return (int64_t)(intptr_t)at.whole + threads * at.whole_each;
}

// x [batch, D] -> y [batch, D]. States before are one pointer a block: wkv [batch, H, N, N], both
// shifts [batch, D]. Those after are wkv [layers, batch, H, N, N] and shifts [2, layers, batch, D].
void rwkv7_step(const Model *model, int64_t batch, int64_t threads, const float *x, float *y,
                const float *const *before, float *wkv_after, float *shift_after, float *memory) {
    const Model &m = *model;
    const Room at = room_of(m, batch, memory);
    const int64_t d = m.width, plane = batch * d, matrices = batch * m.heads * m.size * m.size;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int thread = thread_number();
        const Team team = {thread, thread_count(), batch, at.whole + thread * at.whole_each};
        Share rows(batch, team.thread, team.threads);
        for (int64_t b = rows.first; b < rows.last; ++b)
            layer_norm(x + b * d, m.norm_in_weight, m.norm_in_bias, m.norm_eps, d, at.x + b * d);
        for (int64_t i = 0; i < m.layers; ++i) {
            const Block &p = m.blocks[i];
            float *time_after = shift_after + i * plane;
            float *channel_after = shift_after + (m.layers + i) * plane;
            for (int64_t b = rows.first; b < rows.last; ++b) {
                float *h = time_after + b * d;
                layer_norm(at.x + b * d, p.norm_time_weight, p.norm_time_bias, m.norm_eps, d, h);
                shift(h, before[3 * i + 1] + b * d, p.mix, 6, d, batch, at.mixed + b * d);
            }
#pragma omp barrier
            time_mix(m, p, at, team, i == 0, before[3 * i], wkv_after + i * matrices);
#pragma omp barrier
            for (int64_t b = rows.first; b < rows.last; ++b) {
                float *h = channel_after + b * d;
                layer_norm(at.x + b * d, p.norm_channel_weight, p.norm_channel_bias, m.norm_eps, d,
                           h);
                shift(h, before[3 * i + 2] + b * d, p.channel_mix, 1, d, batch, at.mixed + b * d);
            }
#pragma omp barrier
            team.project(p.channel_key, at.mixed, at.inner, 2);
#pragma omp barrier
            team.add(p.channel_value, at.inner, at.out, at.x);
#pragma omp barrier
        }
        for (int64_t b = rows.first; b < rows.last; ++b)
            layer_norm(at.x + b * d, m.norm_out_weight, m.norm_out_bias, m.norm_eps, d, y + b * d);
    }
}
}
