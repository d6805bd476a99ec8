// One time step of an LSTM layer, after its matrix product: everything between two products is one kernel.
// `real` is float or double. Blocks of 4H columns are the gates i, f, g, o; B rows are sequences.

__device__ inline real sigmoid(real x) { return real(0.5) * tanh(real(0.5) * x) + real(0.5); }

// gates (T, B, 4H): in, W_x x_t + W_h h_{t-1}; out, the activations. b (4H,). cells and hs (T + 1, B, H): row 0 is the
// state before the sequence. tanh_cells (T, B, H).
extern "C" __global__ void lstm_forward(real* gates, const real* b, real* cells, real* tanh_cells, real* hs, int t,
                                        int B, int H) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= B * H) return;
    int unit = at % H;
    size_t now = (size_t)t * B * H + at, next = now + (size_t)B * H;
    real* gate = gates + (size_t)t * B * 4 * H + (size_t)(at / H) * 4 * H + unit;
    real i = sigmoid(gate[0] + b[unit]);
    real f = sigmoid(gate[H] + b[H + unit]);
    real g = tanh(gate[2 * H] + b[2 * H + unit]);
    real o = sigmoid(gate[3 * H] + b[3 * H + unit]);
    real c = f * cells[now] + i * g;
    real tanh_c = tanh(c);
    gate[0] = i;
    gate[H] = f;
    gate[2 * H] = g;
    gate[3 * H] = o;
    cells[next] = c;
    tanh_cells[now] = tanh_c;
    hs[next] = o * tanh_c;
}

// d_hs (T + 1, B, H): row t + 1 is the whole gradient of h_t. d_c (B, H): in, the gradient of c_t that came from later
// steps; out, that of c_{t-1}. Writes d_gates (T, B, 4H) of step t, before the activations.
extern "C" __global__ void lstm_backward(const real* gates, const real* cells, const real* tanh_cells,
                                         const real* d_hs, real* d_c, real* d_gates, int t, int B, int H) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= B * H) return;
    size_t now = (size_t)t * B * H + at;
    size_t first = (size_t)t * B * 4 * H + (size_t)(at / H) * 4 * H + at % H;
    const real* gate = gates + first;
    real* d_gate = d_gates + first;
    real i = gate[0], f = gate[H], g = gate[2 * H], o = gate[3 * H];
    real tanh_c = tanh_cells[now], dh = d_hs[now + (size_t)B * H];
    real dc = d_c[at] + dh * o * (1 - tanh_c * tanh_c);
    d_gate[0] = dc * g * i * (1 - i);
    d_gate[H] = dc * cells[now] * f * (1 - f);
    d_gate[2 * H] = dc * i * (1 - g * g);
    d_gate[3 * H] = dh * tanh_c * o * (1 - o);
    d_c[at] = dc * f;
}
