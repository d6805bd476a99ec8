// The networks a step at a time, for sequences whose states are rows of one array, and what may come next.
// `weight` is half or float: what matrices and their factors are stored as. Everything else is float.
#ifndef EMULATED
#include <cuda_fp16.h>
#endif

__device__ inline void store(float* at, float value) { *at = value; }
__device__ inline void store(half* at, float value) { *at = __float2half(value); }
__device__ inline float sigmoid(float x) { return 0.5f * tanhf(0.5f * x) + 0.5f; }

// A row of `states` (rows, stride) that is -1 stands for the state before any word: zeros.
__device__ inline float at(const float* states, int stride, int row, int column) {
    return row < 0 ? 0.0f : states[(size_t)row * stride + column];
}

// ---- One word --------------------------------------------------------------------------------------------------

// What the layers are multiplied with, as far as it is known before the first of them has run: a block a sequence.
// x0 (B, x0_stride): the word's embedding (E wide, rows E apart) goes to its beginning. Then `count` moves of four
// numbers each: so many values from that column of the state to x + first + sequence * apart.
extern "C" __global__ void gather(weight* x, const int* moves, int count, const weight* embedding, int E, int x0_stride,
                                  const int* ids, const float* states, int stride, const int* sources) {
    int sequence = blockIdx.x, row = sources[sequence];
    const weight* word = embedding + (size_t)ids[sequence] * E;
    weight* x0 = x + (size_t)sequence * x0_stride;
    for (int i = threadIdx.x; i < E && i < x0_stride; i += blockDim.x) x0[i] = word[i];
    __syncthreads();  // an embedding's padding may reach into what the first move writes
    for (int move = 0; move < count; move++) {
        int size = moves[4 * move], column = moves[4 * move + 1];
        weight* to = x + moves[4 * move + 2] + (size_t)sequence * moves[4 * move + 3];
        for (int i = threadIdx.x; i < size; i += blockDim.x) store(to + i, at(states, stride, row, column + i));
    }
}

// gates (B, 4H): W [x; h] in blocks i, f, g, o. Writes c and h into row `rows` of the states, h to `out` as well.
extern "C" __global__ void lstm_cell(const float* gates, const float* b, float* states, int stride, int c_column,
                                     int h_column, int H, const int* sources, const int* rows, weight* out,
                                     int out_stride, int B) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= B * H) return;
    int sequence = i / H, unit = i % H;
    const float* gate = gates + (size_t)sequence * 4 * H + unit;
    float c = at(states, stride, sources[sequence], c_column + unit);
    c = sigmoid(gate[H] + b[H + unit]) * c + sigmoid(gate[0] + b[unit]) * tanhf(gate[2 * H] + b[2 * H + unit]);
    float h = sigmoid(gate[3 * H] + b[3 * H + unit]) * tanhf(c);
    float* state = states + (size_t)rows[sequence] * stride;
    state[c_column + unit] = c;
    state[h_column + unit] = h;
    store(out + (size_t)sequence * out_stride + unit, h);
}

// gates (B, 2H): blocks r, z. Writes r * h to x (B, x_stride), where h stood.
extern "C" __global__ void gru_reset(const float* gates, const float* b, const float* states, int stride, int h_column,
                                     int H, const int* sources, weight* x, int x_stride, int B) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= B * H) return;
    int sequence = i / H, unit = i % H;
    float r = sigmoid(gates[(size_t)sequence * 2 * H + unit] + b[unit]);
    store(x + (size_t)sequence * x_stride + unit, r * at(states, stride, sources[sequence], h_column + unit));
}

// gates as before; candidates (B, H): W_n [x; r * h].
extern "C" __global__ void gru_cell(const float* gates, const float* candidates, const float* b, float* states,
                                    int stride, int h_column, int H, const int* sources, const int* rows, weight* out,
                                    int out_stride, int B) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= B * H) return;
    int sequence = i / H, unit = i % H;
    float z = sigmoid(gates[(size_t)sequence * 2 * H + H + unit] + b[H + unit]);
    float n = tanhf(candidates[i] + b[2 * H + unit]);
    float h = at(states, stride, sources[sequence], h_column + unit);
    h += z * (n - h);
    states[(size_t)rows[sequence] * stride + h_column + unit] = h;
    store(out + (size_t)sequence * out_stride + unit, h);
}

// gates (B, N): all units of the layer; those from `first` on are its output.
extern "C" __global__ void tanh_cell(const float* gates, const float* b, float* states, int stride, int column, int N,
                                     int first, const int* rows, weight* out, int out_stride, int B) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= B * N) return;
    int sequence = i / N, unit = i % N;
    float h = tanhf(gates[i] + b[unit]);
    states[(size_t)rows[sequence] * stride + column + unit] = h;
    if (unit >= first) store(out + (size_t)sequence * out_stride + unit - first, h);
}

// ---- States in and out -------------------------------------------------------------------------------------------

// out (n, out_stride): `size` values of each of these rows, from that column on. A block a row.
extern "C" __global__ void read_rows(float* out, const float* states, int stride, int column, int size, const int* rows) {
    for (int i = threadIdx.x; i < size; i += blockDim.x)
        out[(size_t)blockIdx.x * size + i] = at(states, stride, rows[blockIdx.x], column + i);
}

extern "C" __global__ void write_rows(float* states, const float* in, int stride, const int* rows) {
    for (int i = threadIdx.x; i < stride; i += blockDim.x)
        states[(size_t)rows[blockIdx.x] * stride + i] = in[(size_t)blockIdx.x * stride + i];
}

// ---- What may come next ------------------------------------------------------------------------------------------

// out (n, out_stride): the hidden outputs, H values from that column on, as factors. A block a row.
extern "C" __global__ void hidden_rows(weight* out, int out_stride, int H, const float* states, int stride, int column,
                                       const int* rows) {
    for (int i = threadIdx.x; i < H; i += blockDim.x)
        store(out + (size_t)blockIdx.x * out_stride + i, at(states, stride, rows[blockIdx.x], column + i));
}

#define THREADS 256
#define WARPS (THREADS / 32)
#define KEPT 1024
#define LOWEST (-3.402823466e+38f)
#define ALL 0xffffffffu

// Of the values seen: the greatest, and relative to that the sums of exp(x) and of exp(x) x.
struct Mass {
    float most, sum, weighted;
};

__device__ inline Mass both(Mass a, Mass b) {
    if (a.sum == 0) return b;
    if (b.sum == 0) return a;
    if (a.most < b.most) {
        Mass c = a;
        a = b;
        b = c;
    }
    float apart = b.most - a.most, scale = expf(apart);
    return {a.most, a.sum + scale * b.sum, a.weighted + scale * (b.weighted + apart * b.sum)};
}

__device__ inline bool before(float x, int word, float other_x, int other_word) {
    return x > other_x || (x == other_x && word < other_word);
}

// Sorts n values, a power of two that the block's threads share, the greatest first; equal ones by their words.
__device__ inline void sort(float* values, int* words, int n) {
    for (int size = 2; size <= n; size *= 2)
        for (int apart = size / 2; apart > 0; apart /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < n; i += blockDim.x) {
                int j = i ^ apart;
                if (j <= i) continue;
                bool wrong = before(values[j], words[j], values[i], words[i]);
                if (((i & size) == 0) != wrong) continue;
                float value = values[i];
                int word = words[i];
                values[i] = values[j];
                words[i] = words[j];
                values[j] = value;
                words[j] = word;
            }
        }
    __syncthreads();
}

// What may come next is found in two looks: `parts` blocks look at each row of logits, then one block merges what they
// found. A small batch has too few rows to keep a chip busy with a block each.

// One of `parts` equal pieces of a row of logits (rows, stride), of which V count; b (V,) is added to each. Blocks of
// THREADS threads, the pieces of a row after each other. Gives of each piece the K <= 128 greatest sums, LOWEST where it
// has fewer, and their words (rows, parts, K); the mass (rows, parts, 3); how many words are before the row's target
// (rows, parts). targets (rows,), -1 for none; scores (rows,): the targets' sums.
//
// The greatest K are in the shares of those K threads whose own greatest are the greatest: so a second pass finds them
// among the few that reach the least of these.
extern "C" __global__ void __launch_bounds__(THREADS)
    look(const float* logits, int stride, const float* b, int V, int K, int parts, const int* targets, float* best_values,
         int* best_words, float* masses, int* aheads, float* scores) {
    __shared__ float values[KEPT];
    __shared__ int words[KEPT];
    __shared__ float sums[3][WARPS];
    __shared__ int counts[WARPS];
    __shared__ int found;
    int row_number = blockIdx.x / parts, part = blockIdx.x % parts;
    int length = (V + parts - 1) / parts, first = part * length, end = first + length < V ? first + length : V;
    const float* row = logits + (size_t)row_number * stride;
    int target = targets[row_number];
    float wanted = target < 0 ? 0.0f : row[target] + b[target];
    best_values += (size_t)blockIdx.x * K;
    best_words += (size_t)blockIdx.x * K;

    Mass mass = {LOWEST, 0, 0};
    int ahead = 0;
    for (int v = first + threadIdx.x; v < end; v += THREADS) {
        float x = row[v] + b[v];
        if (x > mass.most) {
            float apart = mass.most - x, scale = mass.sum == 0 ? 0.0f : expf(apart);
            mass.weighted = mass.sum == 0 ? 0.0f : scale * (mass.weighted + apart * mass.sum);
            mass.sum *= scale;
            mass.most = x;
        }
        float apart = x - mass.most, e = expf(apart);
        mass.sum += e;
        mass.weighted += e * apart;
        ahead += before(x, v, wanted, target);
    }
    values[threadIdx.x] = mass.most;
    words[threadIdx.x] = threadIdx.x;
    if (threadIdx.x == 0) found = 0;
    for (int apart = 16; apart > 0; apart /= 2) {
        Mass other;
        other.most = __shfl_xor_sync(ALL, mass.most, apart);
        other.sum = __shfl_xor_sync(ALL, mass.sum, apart);
        other.weighted = __shfl_xor_sync(ALL, mass.weighted, apart);
        mass = both(mass, other);
        ahead += __shfl_xor_sync(ALL, ahead, apart);
    }
    int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) {
        sums[0][warp] = mass.most;
        sums[1][warp] = mass.sum;
        sums[2][warp] = mass.weighted;
        counts[warp] = ahead;
    }
    sort(values, words, THREADS);
    if (threadIdx.x == 0) {
        mass = {sums[0][0], sums[1][0], sums[2][0]};
        ahead = counts[0];
        for (int other = 1; other < WARPS; other++) {
            mass = both(mass, {sums[0][other], sums[1][other], sums[2][other]});
            ahead += counts[other];
        }
        float* at = masses + (size_t)blockIdx.x * 3;
        at[0] = mass.most;
        at[1] = mass.sum;
        at[2] = mass.weighted;
        aheads[blockIdx.x] = ahead;
        if (part == 0) scores[row_number] = wanted;
    }
    float least = values[K - 1];
    __syncthreads();
    for (int v = first + threadIdx.x; v < end; v += THREADS) {
        float x = row[v] + b[v];
        if (x >= least) {
            int place = atomicAdd(&found, 1);
            if (place < KEPT) {
                values[place] = x;
                words[place] = v;
            }
        }
    }
    __syncthreads();
    int count = found;
    if (count <= KEPT) {
        int n = 32;
        while (n < count || n < K) n *= 2;
        for (int i = threadIdx.x; i < n; i += THREADS)
            if (i >= count) {
                values[i] = LOWEST;
                words[i] = V;
            }
        sort(values, words, n);
        for (int i = threadIdx.x; i < K; i += THREADS) {
            best_values[i] = values[i];
            best_words[i] = words[i];
        }
        return;
    }
    // Too many are equally likely: one word after the other, by a look at all of them each time.
    float last = 0;
    int last_word = -1;
    for (int k = 0; k < K; k++) {
        float best = LOWEST;
        int best_word = V;
        for (int v = first + threadIdx.x; v < end; v += THREADS) {
            float x = row[v] + b[v];
            bool later = k == 0 || before(last, last_word, x, v);
            if (later && before(x, v, best, best_word)) {
                best = x;
                best_word = v;
            }
        }
        for (int apart = 16; apart > 0; apart /= 2) {
            float x = __shfl_xor_sync(ALL, best, apart);
            int word = __shfl_xor_sync(ALL, best_word, apart);
            if (before(x, word, best, best_word)) {
                best = x;
                best_word = word;
            }
        }
        __syncthreads();
        if (threadIdx.x % 32 == 0) {
            sums[0][warp] = best;
            counts[warp] = best_word;
        }
        __syncthreads();
        for (int other = 0; other < WARPS; other++)
            if (before(sums[0][other], counts[other], best, best_word)) {
                best = sums[0][other];
                best_word = counts[other];
            }
        last = best;
        last_word = best_word;
        if (threadIdx.x == 0) {
            best_values[k] = best;
            best_words[k] = best_word;
        }
    }
}

// A block a row, of which `look` found so much in `parts` <= KEPT / K pieces. Gives the K likeliest words and their
// log-probabilities (rows, K), the entropy in nats, the target's log-probability (in: its sum) and rank, and the
// logarithm of the normaliser (rows,).
extern "C" __global__ void merge(const float* best_values, const int* best_words, const float* masses, const int* aheads,
                                 int V, int K, int parts, int* top_ids, float* top_values, float* entropies,
                                 float* scores, int* ranks, float* normalisers) {
    __shared__ float values[KEPT];
    __shared__ int words[KEPT];
    size_t first = (size_t)blockIdx.x * parts;
    int count = parts * K, n = 32;
    while (n < count) n *= 2;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        values[i] = i < count ? best_values[first * K + i] : LOWEST;
        words[i] = i < count ? best_words[first * K + i] : V;
    }
    const float* mass_of = masses + first * 3;
    Mass mass = {mass_of[0], mass_of[1], mass_of[2]};
    int ahead = aheads[first];
    for (int part = 1; part < parts; part++) {
        mass = both(mass, {mass_of[part * 3], mass_of[part * 3 + 1], mass_of[part * 3 + 2]});
        ahead += aheads[first + part];
    }
    float log_sum = logf(mass.sum), normaliser = mass.most + log_sum;
    if (threadIdx.x == 0) {
        float entropy = log_sum - mass.weighted / mass.sum;
        entropies[blockIdx.x] = entropy < 0 ? 0.0f : entropy;
        scores[blockIdx.x] -= normaliser;
        ranks[blockIdx.x] = ahead + 1;
        normalisers[blockIdx.x] = normaliser;
    }
    __syncthreads();
    if (parts > 1) sort(values, words, n);
    for (int i = threadIdx.x; i < K; i += blockDim.x) {
        top_ids[(size_t)blockIdx.x * K + i] = words[i] < V ? words[i] : 0;  // fewer than K only where logits are no numbers
        top_values[(size_t)blockIdx.x * K + i] = values[i] - normaliser;
    }
}

// out (rows, N): the log-probabilities of N words, which for the next row stand `apart` further on in `words`.
extern "C" __global__ void log_probabilities(float* out, const float* logits, int stride, const float* b,
                                             const float* normalisers, const int* words, int apart, int N) {
    int row = blockIdx.x;
    for (int i = threadIdx.x; i < N; i += blockDim.x) {
        int word = words[(size_t)row * apart + i];
        out[(size_t)row * N + i] = logits[(size_t)row * stride + word] + b[word] - normalisers[row];
    }
}
