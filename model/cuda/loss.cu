// Softmax cross entropy of one row of logits a block; `real` is float or double. Threads a block: a multiple of 32.

// The sum of exp(x - most) over what was seen, and the greatest x: two such pairs make one.
struct Normaliser {
    real most, sum;
};

__device__ inline Normaliser both(Normaliser a, Normaliser b) {
    real most = a.most > b.most ? a.most : b.most;
    real sum = 0;
    if (a.sum > 0) sum += a.sum * exp(a.most - most);
    if (b.sum > 0) sum += b.sum * exp(b.most - most);
    if (a.sum != a.sum || b.sum != b.sum) sum = a.sum + b.sum;  // not a number, and it has to show
    return {most, sum};
}

// logits (rows, V): in, W h; out, if `scale` is not 0, scale * d loss / d logits. b (V,), targets and losses (rows,).
extern "C" __global__ void softmax_cross_entropy(real* logits, const real* b, const int* targets, real* losses, int V,
                                                 real scale) {
    __shared__ real most[32], sum[32];
    real* row = logits + (size_t)blockIdx.x * V;
    int target = targets[blockIdx.x];
    Normaliser all = {row[0] + b[0], 0};
    for (int v = threadIdx.x; v < V; v += blockDim.x) {
        real x = row[v] + b[v];
        if (x > all.most) {
            all.sum *= exp(all.most - x);
            all.most = x;
        }
        all.sum += exp(x - all.most);
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        Normaliser other;
        other.most = __shfl_xor_sync(0xffffffffu, all.most, apart);
        other.sum = __shfl_xor_sync(0xffffffffu, all.sum, apart);
        all = both(all, other);
    }
    if (threadIdx.x % 32 == 0) {
        most[threadIdx.x / 32] = all.most;
        sum[threadIdx.x / 32] = all.sum;
    }
    __syncthreads();
    all = {most[0], sum[0]};
    for (int warp = 1; warp < blockDim.x / 32; warp++) all = both(all, {most[warp], sum[warp]});
    if (threadIdx.x == 0) losses[blockIdx.x] = all.most + log(all.sum) - (row[target] + b[target]);
    if (scale == 0) return;
    __syncthreads();  // the target's logit is read before it is overwritten
    real share = scale / all.sum;
    for (int v = threadIdx.x; v < V; v += blockDim.x) {
        real p = share * exp(row[v] + b[v] - all.most);
        row[v] = v == target ? p - scale : p;
    }
}
