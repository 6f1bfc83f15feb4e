// One position through all blocks of an RWKV-7. Names and order are those of TimeMix.step and
// ChannelMix.step in layers.py, the readable form. Every phase ends where the next needs what others made.
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

// What WKV is made of, for one head of one position; w is the decay, read the row that reads.
struct Prepared {
    alignas(64) float r[LARGEST], w[LARGEST], k[LARGEST], v[LARGEST];
    alignas(64) float read[LARGEST], write[LARGEST], y[LARGEST];
    float bonus;
};

// What the projections gave, [positions, D] each, float32 or (NARROW) bfloat16; `first` is the
// value of block 0, always float32, written there and read by the other blocks.
struct Projected {
    const void *r, *k, *v, *raw_w, *raw_a, *raw_v, *gate;
    float *first;
};

template <bool NARROW>
floats get(const void *from, int64_t i) {
    if (!NARROW) return load((const float *)from + i);
    typedef uint16_t halves __attribute__((vector_size(32)));
    halves bits;
    std::memcpy(&bits, (const uint16_t *)from + i, sizeof bits);
    return as_floats(__builtin_convertvector(bits, words) << 16);
}

template <bool NARROW>
void put(void *to, int64_t i, floats v) {
    if (!NARROW) return store((float *)to + i, v);
    typedef uint16_t halves __attribute__((vector_size(32)));
    words bits;
    std::memcpy(&bits, &v, sizeof bits);
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
    halves narrow = __builtin_convertvector(bits, halves);
    std::memcpy((uint16_t *)to + i, &narrow, sizeof narrow);
}

// h + (carry - h) * mix, for each of `count` rows of mix, to row `row` of out [count, rows, n].
template <bool NARROW>
void shift(const float *h, const float *carry, const float *mix, int64_t count, int64_t n,
           int64_t rows, int64_t row, void *out) {
    for (int64_t i = 0; i < n; i += LANES) {
        floats now = load(h + i), difference = load(carry + i) - now;
        for (int64_t j = 0; j < count; ++j)
            put<NARROW>(out, (j * rows + row) * n + i, now + difference * load(mix + j * n + i));
    }
}

// Decay, rate, direction and key of head channels [start, start + n), row numbers from `here`.
template <bool NARROW>
void prepare(const Block &p, const Projected &in, int64_t start, int64_t here, int64_t n,
             bool is_first, Prepared &out) {
    floats length = {}, bonus = {};
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t d = start + i, e = here + i;
        floats raw = get<NARROW>(in.raw_w, e) + load(p.w0 + d);
        store(out.w + i, exponential(sigmoid(raw) * -DECAY));
        floats value = get<NARROW>(in.v, e);
        if (is_first) {
            store(in.first + e, value);
        } else {
            floats share = sigmoid(get<NARROW>(in.raw_v, e) + load(p.v0 + d));
            value += share * (load(in.first + e) - value);
        }
        store(out.v + i, value);
        floats direction = get<NARROW>(in.k, e) * load(p.k_k + d);
        store(out.read + i, direction);
        length += direction * direction;
    }
    const float scale = 1.0f / std::fmax(std::sqrt(sum(length)), 1e-12f);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t d = start + i, e = here + i;
        floats a = sigmoid(get<NARROW>(in.raw_a, e) + load(p.a0 + d));
        floats direction = load(out.read + i) * scale, key = get<NARROW>(in.k, e);
        floats r = get<NARROW>(in.r, e);
        key += key * (a - 1.0f) * load(p.k_a + d);
        store(out.r + i, r);
        store(out.read + i, -direction);
        store(out.write + i, direction * a);
        store(out.k + i, key);
        bonus += r * key * load(p.r_k + d);
    }
    out.bonus = sum(bonus);
}

// (norm(y) + bonus v) * gate, to y of the block.
template <bool NARROW>
void conclude(const Model &m, const Block &p, const Projected &in, int64_t start, int64_t here,
              Prepared &made, void *y) {
    layer_norm(made.y, p.head_weight + start, p.head_bias + start, m.head_eps, m.size, made.y);
    for (int64_t i = 0; i < m.size; i += LANES) {
        floats mixed = load(made.y + i) + made.bonus * load(made.v + i);
        put<NARROW>(y, here + i, mixed * get<NARROW>(in.gate, here + i));
    }
}

// S <- S diag(w) + (S a) b^T + v k^T and y = S r, for one head; rows of S are values.
template <int PARTS>
void wkv(const float *state, float *after, Prepared &in, int64_t size) {
    const int64_t parts = PARTS ? PARTS : size / LANES;
    for (int64_t i = 0; i < size; ++i) {
        const float *row = state + i * size;
        float *to = after + i * size;
        floats read = {};
        for (int64_t j = 0; j < parts; ++j)
            read += load(row + j * LANES) * load(in.read + j * LANES);
        const float removed = sum(read), value = in.v[i];
        floats seen = {};
        for (int64_t j = 0; j < parts; ++j) {
            const int64_t at = j * LANES;
            floats now = load(row + at) * load(in.w + at) + removed * load(in.write + at);
            now += value * load(in.k + at);
            store(to + at, now);
            seen += now * load(in.r + at);
        }
        in.y[i] = sum(seen);
    }
}

// The same on the transposed state, whose rows are keys: nothing is added across lanes, which
// pays as soon as there are positions enough to turn the state for. Sixteen PARTS values at once.
template <int PARTS>
void wkv_turned(float *state, Prepared &in, int64_t size, int64_t from) {
    floats even[PARTS] = {}, odd[PARTS] = {}, value[PARTS], seen[PARTS] = {};
    for (int64_t k = 0; k < size; k += 2) {
        const float *row = state + k * size + from;
        for (int j = 0; j < PARTS; ++j) {
            even[j] += load(row + j * LANES) * in.read[k];
            odd[j] += load(row + size + j * LANES) * in.read[k + 1];
        }
    }
    for (int j = 0; j < PARTS; ++j) {
        even[j] += odd[j];
        value[j] = load(in.v + from + j * LANES);
    }
    for (int64_t k = 0; k < size; ++k) {
        float *row = state + k * size + from;
        for (int j = 0; j < PARTS; ++j) {
            floats now = load(row + j * LANES) * in.w[k] + even[j] * in.write[k];
            now += value[j] * in.k[k];
            store(row + j * LANES, now);
            seen[j] += now * in.r[k];
        }
    }
    for (int j = 0; j < PARTS; ++j) store(in.y + from + j * LANES, seen[j]);
}

void turn(const float *from, float *to, int64_t size) {
    for (int64_t i = 0; i < size; ++i)
        for (int64_t j = 0; j < size; ++j) to[j * size + i] = from[i * size + j];
}

// Everything between the projections, for one head of one position.
void head_step(const Model &m, const Block &p, const Projected &in, int64_t head, int64_t b,
               bool is_first, const float *state, float *after, float *y) {
    const int64_t start = head * m.size, here = b * m.width + start;
    Prepared made;
    prepare<false>(p, in, start, here, m.size, is_first, made);
    if (m.size == 64) wkv<4>(state, after, made, m.size);
    else wkv<0>(state, after, made, m.size);
    conclude<false>(m, p, in, start, here, made, y);
}

// The same for `length` positions in a row; `room` is for one turned state.
template <bool NARROW>
void head_scan(const Model &m, const Block &p, const Projected &in, int64_t head, int64_t row,
               int64_t length, bool is_first, const float *state, float *after, float *room,
               void *y) {
    const int64_t start = head * m.size;
    turn(state, room, m.size);
    Prepared made;
    for (int64_t t = 0; t < length; ++t) {
        const int64_t here = (row + t) * m.width + start;
        prepare<NARROW>(p, in, start, here, m.size, is_first, made);
        int64_t from = 0;
        for (; from + 64 <= m.size; from += 64) wkv_turned<4>(room, made, m.size, from);
        for (; from < m.size; from += LANES) wkv_turned<1>(room, made, m.size, from);
        conclude<NARROW>(m, p, in, start, here, made, y);
    }
    turn(room, after, m.size);
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
    const Projected in = {at.r, at.k, at.v, at.raw_w, at.raw_a, at.raw_v, at.gate, at.first};
    for (int64_t b = 0; b < team.batch; ++b) {
        for (int64_t head = heads.first; head < heads.last; ++head) {
            const int64_t lies = (b * m.heads + head) * m.size * m.size;
            head_step(m, p, in, head, b, is_first, wkv_before + lies, wkv_after + lies, at.y);
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
                shift<false>(h, before[3 * i + 1] + b * d, p.mix, 6, d, batch, b, at.mixed);
            }
#pragma omp barrier
            time_mix(m, p, at, team, i == 0, before[3 * i], wkv_after + i * matrices);
#pragma omp barrier
            for (int64_t b = rows.first; b < rows.last; ++b) {
                float *h = channel_after + b * d;
                layer_norm(at.x + b * d, p.norm_channel_weight, p.norm_channel_bias, m.norm_eps, d,
                           h);
                shift<false>(h, before[3 * i + 2] + b * d, p.channel_mix, 1, d, batch, b, at.mixed);
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

// x [batch, length, D] -> its norm, shifted and mixed, [count, batch * length, D] in float32 or
// bfloat16, and the last normed vector of each sequence, [batch, D]. time: norm_time and mix, else
// norm_channel and channel_mix. room is 2 D numbers.
void rwkv7_mix(const Model *model, int64_t block, int64_t time, int64_t batch, int64_t length,
               const float *x, const float *carry, int64_t narrow, void *out, float *last,
               float *room) {
    const Model &m = *model;
    const Block &p = m.blocks[block];
    const int64_t d = m.width, rows = batch * length, count = time ? 6 : 1;
    const float *mix = time ? p.mix : p.channel_mix;
    const float *weight = time ? p.norm_time_weight : p.norm_channel_weight;
    const float *bias = time ? p.norm_time_bias : p.norm_channel_bias;
    for (int64_t b = 0; b < batch; ++b) {
        std::memcpy(room + d, carry + b * d, d * sizeof(float));
        for (int64_t t = 0; t < length; ++t) {
            float *now = room + (t % 2) * d, *before = room + ((t + 1) % 2) * d;
            const int64_t row = b * length + t;
            layer_norm(x + row * d, weight, bias, m.norm_eps, d, now);
            if (narrow) shift<true>(now, before, mix, count, d, rows, row, out);
            else shift<false>(now, before, mix, count, d, rows, row, out);
        }
        std::memcpy(last + b * d, room + ((length + 1) % 2) * d, d * sizeof(float));
    }
}

// What lies between the projections of block `block`, for [batch, length] positions: states
// [batch, H, N, N] before and after, y [batch * length, D]. room is N * N numbers.
void rwkv7_scan(const Model *model, int64_t block, int64_t batch, int64_t length, int64_t narrow,
                const Projected *in, const float *before, float *after, void *y, float *room) {
    const Model &m = *model;
    const Block &p = m.blocks[block];
    for (int64_t b = 0; b < batch; ++b) {
        for (int64_t head = 0; head < m.heads; ++head) {
            const int64_t lies = (b * m.heads + head) * m.size * m.size;
            if (narrow)
                head_scan<true>(m, p, *in, head, b * length, length, block == 0, before + lies,
                                after + lies, room, y);
            else
                head_scan<false>(m, p, *in, head, b * length, length, block == 0, before + lies,
                                 after + lies, room, y);
        }
    }
}
}
