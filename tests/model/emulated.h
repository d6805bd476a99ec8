// What the kernels need of CUDA, on a CPU: see emulated.py.
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static
#define INFINITY_F std::numeric_limits<float>::infinity()

using std::exp;
using std::log;
using std::tanh;

typedef _Float16 half;
inline float __half2float(half x) { return (float)x; }
inline half __float2half(float x) { return (half)x; }

struct dim3_ { int x = 1, y = 1, z = 1; };
static dim3_ gridDim, blockDim, blockIdx, threadIdx;

namespace emulated {
struct Fiber {
    ucontext_t context;  // to begin with; from then on `place`, which is far quicker to change to
    jmp_buf place;
    bool begun = false, ended = false;
    std::vector<char> stack;
};
static jmp_buf scheduler;
static std::deque<Fiber> fibers;  // whose elements stay where they are
static int current;
static void (*body)(void*);
static void* body_arguments;
static uint64_t lanes[1024];

inline void barrier() {
    if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}

static void enter() {
    while (true) {  // a block after the other
        body(body_arguments);
        fibers[current].ended = true;
        barrier();
    }
}

static void begin() {
    Fiber& fiber = fibers.emplace_back();
    fiber.stack.resize(1 << 16);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
}

// Run this thread until its next barrier.
__attribute__((noinline)) static void resume(Fiber* fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber->begun) _longjmp(fiber->place, 1);
    fiber->begun = true;
    setcontext(&fiber->context);
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_reference_t<A>*)arguments[I]...);
}

template <class... A>
struct Bound { void (*kernel)(A...); void** arguments; };

template <class... A>
void launch(void (*kernel)(A...), bool barriers, int blocks, int threads, void** arguments) {
    Bound<A...> bound{kernel, arguments};
    body = [](void* pointer) {
        auto* bound = (Bound<A...>*)pointer;
        call(bound->kernel, bound->arguments, std::index_sequence_for<A...>());
    };
    body_arguments = &bound;
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
        if (!barriers) {
            for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) body(body_arguments);
            continue;
        }
        while ((int)fibers.size() < threads) begin();
        for (int thread = 0; thread < threads; thread++) fibers[thread].ended = false;
        for (bool going = true; going;) {
            going = false;
            for (current = 0; current < threads; current++) {
                if (fibers[current].ended) continue;
                threadIdx.x = current;
                resume(&fibers[current]);
                going = going || !fibers[current].ended;
            }
        }
    }
}

template <class T>
T exchanged(T value, int lane) {
    static_assert(sizeof(T) <= 8);
    int own = current;
    memcpy(&lanes[own], &value, sizeof(T));
    barrier();
    T result;
    memcpy(&result, &lanes[lane], sizeof(T));
    barrier();
    return result;
}
}  // namespace emulated

inline void __syncthreads() { emulated::barrier(); }
inline void __syncwarp() { emulated::barrier(); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) { return emulated::exchanged(value, emulated::current ^ mask); }
inline int atomicAdd(int* at, int value) { int before = *at; *at += value; return before; }
inline float __expf(float x) { return std::exp(x); }
