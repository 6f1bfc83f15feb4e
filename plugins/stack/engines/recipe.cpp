// One position through a stack whose halves wrote down what they do (recipe.py): a list of
// operations on rows of scratch memory, and on the states. Every thread runs the list; nobody
// begins an operation before all have ended the one before it.
#include "matvec.h"

using namespace wishbone;

namespace {

enum Code : int64_t { PRODUCT, NORM, MAP, PAIR, MIX, CONVOLUTION, LOAD, STORE, MEMORY, DIVIDE, TURN };
enum NormKind : int64_t { RMS, LAYER, UNIT };
enum MapKind : int64_t {
    SAME, SILU, SIGMOID, TANH, SOFTPLUS, LOG_SIGMOID, EXP, ELU_1, SQUARED_RELU
};
enum PairKind : int64_t { ADD, SUBTRACT, MULTIPLY, LARGER };

// Places are columns of scratch memory, the same in every row of the batch.
struct Op {
    int64_t code, kind;
    int64_t n;                    // numbers of the result, of one row
    int64_t out, in[6];           // places; -1 for none
    int64_t heads, groups, values, keys;
    int64_t repeat;               // numbers of the first input that share one of the second
    int64_t part;                 // number of a part of the state
    int64_t flags;
    float scale, factor, eps;
    const float *p, *q;           // vectors; null for none
    Matrix matrix;
};

enum Flags : int64_t { PER_HEAD = 1, PER_CHANNEL = 2, DELTA = 4, EARLY = 8, ONES = 16 };

struct Step {
    int64_t batch, threads, width;  // numbers of a row of scratch memory
    float *memory;
    const float *const *before;
    float *const *after;
    const int64_t *start;
    int8_t *whole;
    int64_t whole_each;

    float *at(int64_t row, int64_t place) const { return memory + row * width + place; }
};

// f of n numbers, sixteen at a time; the rest goes through a lane of its own.
template <class F>
void each(float *out, const float *in, int64_t n, F f) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(out + i, f(load(in + i), i));
    if (i < n) {
        float rest[LANES] = {};
        std::memcpy(rest, in + i, (n - i) * sizeof(float));
        store(rest, f(load(rest), i));
        std::memcpy(out + i, rest, (n - i) * sizeof(float));
    }
}

// Sixteen numbers of a vector of which `n` are there, zeros behind.
floats part_of(const float *from, int64_t i, int64_t n) {
    if (i + LANES <= n) return load(from + i);
    float rest[LANES] = {};
    std::memcpy(rest, from + i, (n - i) * sizeof(float));
    return load(rest);
}

float product(const float *x, const float *y, int64_t n) {
    floats total = {};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) total += load(x + i) * load(y + i);
    float s = sum(total);
    for (; i < n; ++i) s += x[i] * y[i];
    return s;
}

// Over each of `groups` equal stretches. Weights p and q have n numbers.
void norm(const Op &op, const float *x, float *out) {
    const int64_t m = op.n / op.groups;
    for (int64_t g = 0; g < op.groups; ++g) {
        const float *in = x + g * m;
        const int64_t at = g * m;
        float mean = 0, squares = 0;
        if (op.kind == LAYER) {
            for (int64_t i = 0; i < m; ++i) mean += in[i];
            mean /= m;
            for (int64_t i = 0; i < m; ++i) squares += (in[i] - mean) * (in[i] - mean);
        } else {
            squares = product(in, in, m);
        }
        if (op.kind != UNIT) squares /= m;
        const float scale = op.factor / std::sqrt(squares + op.eps);
        for (int64_t i = 0; i < m; ++i) {
            float value = (in[i] - mean) * scale;
            if (op.p) value *= op.p[at + i];
            if (op.q) value += op.q[at + i];
            out[at + i] = value;
        }
    }
}

float log1_exp(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

// factor q f(scale x + p)
void map(const Op &op, const float *x, float *out) {
    const int64_t n = op.n;
    each(out, x, n, [&](floats v, int64_t i) {
        v = v * op.scale;
        if (op.p) v += part_of(op.p, i, n);
        if (op.kind == SILU) v = v * sigmoid(v);
        else if (op.kind == SIGMOID) v = sigmoid(v);
        else if (op.kind == EXP) v = exponential(v);
        else if (op.kind == ELU_1) v = v > 0.0f ? v + 1.0f : exponential(v);
        else if (op.kind == SQUARED_RELU) v = v > 0.0f ? v * v : v * 0.0f;
        else if (op.kind != SAME) {
            float lanes[LANES];
            store(lanes, v);
            for (float &y : lanes) {
                if (op.kind == TANH) y = std::tanh(y);
                if (op.kind == SOFTPLUS) y = log1_exp(y);
                if (op.kind == LOG_SIGMOID) y = -log1_exp(-y);
            }
            v = load(lanes);
        }
        v = v * op.factor;
        if (op.q) v = v * part_of(op.q, i, n);
        return v;
    });
}

// f of two rows, of which the second has a number for each `repeat` of the first.
template <class F>
void pairwise(const Op &op, const float *x, const float *y, float *out, F f) {
    const int64_t r = op.repeat;
    for (int64_t j = 0; j < op.n / r && r > 1; ++j)
        for (int64_t i = 0; i < r; ++i) out[j * r + i] = f(x[j * r + i], y[j]);
    for (int64_t i = 0; i < op.n && r == 1; ++i) out[i] = f(x[i], y[i]);
}

void pair(const Op &op, const float *x, const float *y, float *out) {
    if (op.kind == ADD) pairwise(op, x, y, out, [](float a, float b) { return a + b; });
    if (op.kind == SUBTRACT) pairwise(op, x, y, out, [](float a, float b) { return a - b; });
    if (op.kind == MULTIPLY) pairwise(op, x, y, out, [](float a, float b) { return a * b; });
    if (op.kind == LARGER) pairwise(op, x, y, out, [](float a, float b) { return a > b ? a : b; });
}

// x + (y - x) (p + a third row), either of which may be missing.
void mix(const Op &op, const float *x, const float *y, const float *share, float *out) {
    for (int64_t i = 0; i < op.n; ++i) {
        const float by = (op.p ? op.p[i] : 0.0f) + (share ? share[i] : 0.0f);
        out[i] = x[i] + (y[i] - x[i]) * by;
    }
}

// silu of a causal convolution; p is [W, C], the state [W - 1, C] the inputs before.
void convolution(const Op &op, const float *x, const float *before, float *after, float *out) {
    const int64_t n = op.n, carried = op.values - 1;
    each(out, x, n, [&](floats v, int64_t i) {
        floats total = v * part_of(op.p + carried * n, i, n);
        if (op.q) total += part_of(op.q, i, n);
        for (int64_t j = 0; j < carried; ++j)
            total += part_of(before + j * n, i, n) * part_of(op.p + j * n, i, n);
        return total * sigmoid(total);
    });
    std::memcpy(after, before + n, (carried - 1) * n * sizeof(float));
    std::memcpy(after + (carried - 1) * n, x, n * sizeof(float));
}

constexpr int64_t LARGEST = 1024;  // numbers of a key

// What one head of one position reads and writes.
struct Head {
    const float *r, *k, *v, *a, *b;
    alignas(64) float decay[LARGEST];
    bool decays;
};

// S <- S diag(decay) + (S a) b' + v k', y = S r; rows of S are values. EARLY reads before it writes.
template <int PARTS>
void recur(const Op &op, const Head &in, const float *before, float *after, float *y) {
    const int64_t keys = PARTS ? PARTS * LANES : op.keys;
    const int64_t full = keys / LANES * LANES;
    for (int64_t row = 0; row < op.values; ++row) {
        const float *from = before + row * keys;
        float *to = after + row * keys;
        const float value = (op.flags & ONES) && row == op.values - 1 ? 1.0f : in.v[row];
        const float removed = op.flags & DELTA ? product(from, in.a, keys) : 0.0f;
        floats seen = {};
        float rest = 0;
        for (int64_t j = 0; j < full; j += LANES) {
            floats old = load(from + j), now = old;
            if (in.decays) now *= load(in.decay + j);
            if (op.flags & DELTA) now += removed * load(in.b + j);
            now += value * load(in.k + j);
            store(to + j, now);
            seen += (op.flags & EARLY ? old : now) * load(in.r + j);
        }
        for (int64_t j = full; j < keys; ++j) {
            float now = in.decays ? from[j] * in.decay[j] : from[j];
            if (op.flags & DELTA) now += removed * in.b[j];
            now += value * in.k[j];
            rest += (op.flags & EARLY ? from[j] : now) * in.r[j];
            to[j] = now;
        }
        y[row] = sum(seen) + rest;
    }
}

void memory_of(const Op &op, const Step &step, int64_t row, int64_t head) {
    const int64_t group = head / (op.heads / op.groups) * op.keys;
    const int64_t values = op.values - (op.flags & ONES ? 1 : 0);
    Head in;
    in.r = step.at(row, op.in[0]) + group;
    in.k = step.at(row, op.in[1]) + group;
    in.v = step.at(row, op.in[2]) + head * values;
    in.decays = op.flags & (PER_HEAD | PER_CHANNEL);
    if (op.flags & PER_HEAD) {
        const float decay = std::exp(*(step.at(row, op.in[3]) + head));
        for (int64_t i = 0; i < op.keys; ++i) in.decay[i] = decay;
    }
    if (op.flags & PER_CHANNEL)
        each(in.decay, step.at(row, op.in[3]) + group, op.keys,
             [](floats v, int64_t) { return exponential(v); });
    if (op.flags & DELTA) {
        in.a = step.at(row, op.in[4]) + group;
        in.b = step.at(row, op.in[5]) + group;
    }
    const int64_t lies = (row * op.heads + head) * op.values * op.keys;
    const float *before = step.before[op.part] + lies;
    float *after = step.after[op.part] + lies, *y = step.at(row, op.out) + head * op.values;
    if (op.keys == 64) recur<4>(op, in, before, after, y);
    else if (op.keys == 32) recur<2>(op, in, before, after, y);
    else recur<0>(op, in, before, after, y);
    if (op.p) {  // the bonus: what is written now is read with a weight of its own
        float bonus = 0;
        for (int64_t i = 0; i < op.keys; ++i) bonus += in.r[i] * op.p[head * op.keys + i] * in.k[i];
        for (int64_t i = 0; i < op.values; ++i) y[i] += bonus * in.v[i];
    }
}

// All but the last number of each head over the last one; with a second place, over the larger of
// its size and exp(-x).
void divide(const Op &op, const float *x, const float *least, float *out) {
    const int64_t values = op.values;
    for (int64_t h = 0; h < op.heads; ++h) {
        float by = x[h * (values + 1) + values];
        if (least) by = std::fmax(std::fabs(by), std::exp(-least[h]));
        const float over = 1.0f / (by + op.eps);
        for (int64_t i = 0; i < values; ++i) out[h * values + i] = x[h * (values + 1) + i] * over;
    }
}

// Number i of each head turned with number i + K / 2, by the position times p[i] and q[i], whose
// sum is the frequency in two floats.
void turn(const Op &op, int64_t position, const float *x, float *out) {
    const int64_t half = op.keys / 2;
    for (int64_t i = 0; i < half; ++i) {
        const double frequency = (double)op.p[i] + (double)op.q[i];
        const float angle = (float)(position * frequency);
        const float c = std::cos(angle), s = std::sin(angle);
        for (int64_t h = 0; h < op.heads; ++h) {
            const float first = x[h * op.keys + i], second = x[h * op.keys + half + i];
            out[h * op.keys + i] = (first * c - second * s) * op.factor;
            out[h * op.keys + half + i] = (second * c + first * s) * op.factor;
        }
    }
}

void run_row(const Op &op, const Step &step, int64_t row) {
    float *out = step.at(row, op.out);
    const float *x = step.at(row, op.in[0]);
    const float *y = op.in[1] < 0 ? nullptr : step.at(row, op.in[1]);
    const float *z = op.in[2] < 0 ? nullptr : step.at(row, op.in[2]);
    if (op.code == NORM) norm(op, x, out);
    if (op.code == MAP) map(op, x, out);
    if (op.code == PAIR) pair(op, x, y, out);
    if (op.code == MIX) mix(op, x, y, z, out);
    if (op.code == DIVIDE) divide(op, x, y, out);
    if (op.code == TURN) turn(op, step.start[row], x, out);
    if (op.code == LOAD)
        std::memcpy(out, step.before[op.part] + row * op.n, op.n * sizeof(float));
    if (op.code == STORE)
        std::memcpy(step.after[op.part] + row * op.n, x, op.n * sizeof(float));
    if (op.code == CONVOLUTION) {
        const int64_t lies = row * (op.values - 1) * op.n;
        convolution(op, x, step.before[op.part] + lies, step.after[op.part] + lies, out);
    }
}

void run(const Op &op, const Step &step, int thread) {
    const int64_t width = step.width;
    if (op.code == PRODUCT) {
        Share part(op.matrix.rows / LANES, thread, (int)step.threads);
        const int64_t first = part.first * LANES, last = part.last * LANES;
        int8_t *whole = step.whole + thread * step.whole_each;
        times(op.matrix, first, last, step.batch, step.memory + op.in[0], width,
              step.memory + op.out, width, whole);
        if (op.p)
            for (int64_t row = 0; row < step.batch; ++row)
                for (int64_t i = first; i < last && i < op.n; ++i) *(step.at(row, op.out) + i) += op.p[i];
        return;
    }
    const int64_t heads = op.code == MEMORY ? op.heads : 1;
    Share part(step.batch * heads, thread, (int)step.threads);
    for (int64_t i = part.first; i < part.last; ++i) {
        if (op.code == MEMORY) memory_of(op, step, i / heads, i % heads);
        else run_row(op, step, i);
    }
}

}  // namespace

extern "C" {

// x and y are places in `memory` [batch, width]; states before and after are one pointer a part.
void recipe_step(const Op *ops, int64_t count, int64_t batch, int64_t threads, int64_t width,
                 float *memory, const float *const *before, float *const *after,
                 const int64_t *start, int8_t *whole, int64_t whole_each) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const Step step = {batch, thread_count(), width, memory, before, after, start, whole, whole_each};
        const int thread = thread_number();
        for (int64_t i = 0; i < count; ++i) {
            run(ops[i], step, thread);
#pragma omp barrier
        }
    }
}

int64_t recipe_size() { return sizeof(Op); }
}
