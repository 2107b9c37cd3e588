// Blocks of threads on the CPU: fibers that run from one collective to the next, one at a time.
//
// A warp runs until none of its lanes can go on without other warps, in rounds: in each, every lane that can
// run does so until its next collective. Then it is another warp's turn, until all wait for the whole block.
// Within the rounds and among the warps the order is the caller's choice, so that what is read before it was
// written in one order is read afterwards in another.

#include "runtime.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "memory.hpp"
#include "order.hpp"
#include "signals.hpp"
#include "threads.hpp"

struct MojdIndex {
    unsigned x;
};
MojdIndex threadIdx, blockIdx, blockDim, gridDim;

namespace mojd_host {

void* shared;

namespace {

// The most shared memory that a block can have on any GPU so far.
constexpr Bits MOST_SHARED = 227 * 1024;

// Lanes as bits: yet to run in this round, to run in the next, waiting at a collective of the warp.
struct Warp {
    unsigned round, ready, waiting;
};

Warp warps[Stacks::MOST / 32];
unsigned warps_to_run, warp_now, thread_now, at_barrier, returned;
Order order;
Stacks* stacks;
SharedMemory memory;
Context outside;
void (*kernel)(void**);
void** kernel_arguments;

[[noreturn]] void fail_to_meet(const char* what, unsigned first, unsigned last) {
    say("block %u: %s", blockIdx.x, what);
    say_where(first, last < blockDim.x ? last : blockDim.x);
    leave();
}

// The lane that a lane reads, as in PTX's shfl, whose segments are `width` lanes.
int source_lane(Kind kind, int lane, int operand, int width) {
    const int first = lane & ~(width - 1), last = first + width - 1;
    int source = lane;
    switch (kind) {
        case SHUFFLE:
            return first | (operand & (width - 1));
        case SHUFFLE_XOR:
            source = lane ^ (operand & 31);
            return source <= last ? source : lane;
        case SHUFFLE_UP:
            source = lane - (operand & 31);
            return source >= first ? source : lane;
        default:
            source = lane + (operand & 31);
            return source <= last ? source : lane;
    }
}

// Lets the lanes of `mask` go on, all of which have arrived somewhere.
void release(Warp& warp, unsigned mask) {
    Thread* lanes = &threads[warp_now * 32];
    const Thread& model = threads[thread_now];
    const Kind kind = model.kind;
    Bits ballot = 0;
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        const Thread& each = lanes[lane];
        const bool anywhere = kind == SYNC_WARP && each.kind == SYNC_WARP && each.mask == mask;
        if (!anywhere && !same_place(model, each))
            fail_to_meet("lanes of a warp meet at different collectives", warp_now * 32, warp_now * 32 + 32);
        if (each.value != 0) ballot |= Bits{1} << lane;
    }
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        Thread& each = lanes[lane];
        each.kind = RUNNING;
        each.result = ballot;
        if (!is_shuffle(kind)) continue;
        const int source = source_lane(kind, lane, each.operand, each.width);
        if ((mask >> source & 1) == 0)
            fail("lane %d reads lane %d, which is not in mask 0x%08x, in line %d", lane, source, mask,
                 each.line);
        each.result = lanes[source].value;
    }
    warp.waiting &= ~mask;
    warp.ready |= mask;
}

// Everybody waits or has returned: opens the barrier, or tells that there is none to open.
void release_block() {
    const unsigned count = blockDim.x;
    if (at_barrier != count) fail_to_meet("its threads wait for each other for ever", 0, count);
    int votes = 0;
    for (unsigned i = 0; i < count; ++i) {
        if (!same_place(threads[0], threads[i]))
            fail_to_meet("its threads meet at different barriers", 0, count);
        votes += threads[i].value != 0;
    }
    const Kind kind = threads[0].kind;
    const int vote = kind == SYNC_THREADS_COUNT ? votes
                     : kind == SYNC_THREADS_AND ? votes == static_cast<int>(count)
                                                : votes != 0;
    for (unsigned i = 0; i < count; ++i) {
        threads[i].result = static_cast<Bits>(vote);
        threads[i].kind = RUNNING;
    }
    at_barrier = 0;
}

// Makes all threads ready to run.
void ready_all() {
    const unsigned count = blockDim.x, full = (count + 31) / 32;
    for (unsigned i = 0; i < full; ++i) {
        const unsigned lanes = count - 32 * i;
        warps[i] = {0, lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1, 0};
    }
    warps_to_run = full == 32 ? 0xffffffffu : (1u << full) - 1;
    warp_now = static_cast<unsigned>(order.pick(warps_to_run));
}

// Switches to the fiber whose turn it is; the caller's goes on when that is its own.
void next(Context& from) {
    Warp* warp = &warps[warp_now];
    while (warp->round == 0) {
        if (warp->ready != 0) {
            warp->round = warp->ready;
            warp->ready = 0;
            break;
        }
        warps_to_run &= ~(1u << warp_now);
        if (warps_to_run != 0) {
            warp_now = static_cast<unsigned>(order.pick(warps_to_run));
        } else if (returned == blockDim.x) {
            switch_context(from, outside);
            return;
        } else {
            release_block();
            ready_all();
        }
        warp = &warps[warp_now];
    }
    const unsigned lane = static_cast<unsigned>(order.pick(warp->round));
    warp->round &= ~(1u << lane);
    thread_now = threadIdx.x = warp_now * 32 + lane;
    Thread& to = threads[thread_now];
    if (&to.context != &from) switch_context(from, to.context);
}

// What a fiber runs, once for each block.
void run_thread() {
    threads[thread_now].kind = RUNNING;
    kernel(kernel_arguments);
    threads[thread_now].kind = RETURNED;
    ++returned;
    next(threads[thread_now].context);
    std::abort();
}

void run_block() {
    for (unsigned i = 0; i < blockDim.x; ++i) {
        threads[i].kind = NOT_STARTED;
        threads[i].line = 0;
        prepare(threads[i].context, stacks->top(i), Stacks::SIZE - 32 * 128, run_thread);
    }
    memory.poison();
    at_barrier = returned = 0;
    ready_all();
    next(outside);
    const std::ptrdiff_t place = memory.trespass();
    if (place != 0) fail("something wrote to byte %td of shared memory of %zu bytes", place, memory.bytes());
}

void run_grid(const Launch& request) {
    static std::uint32_t* blocks = nullptr;
    std::free(blocks);  // those of a launch that failed
    blocks = static_cast<std::uint32_t*>(std::malloc(request.grid * sizeof(std::uint32_t)));
    if (blocks == nullptr) fail("no memory for %u blocks", request.grid);
    order.permute(blocks, request.grid);
    for (unsigned i = 0; i < request.grid; ++i) {
        blockIdx.x = blocks[i];
        run_block();
    }
}

void say_fault(int signal, const char* address) {
    const int line = threads[thread_now].line;
    say("block %u: thread %u", blockIdx.x, thread_now);
    const int overflown = stacks->overflown(address);
    if (signal == SIGILL)
        say(" executes an illegal instruction: undefined behaviour, if compiled with sanitize=True");
    else if (signal == SIGFPE)
        say(" divides an integer by zero");
    else if (memory.is_near(address))
        say(" touches byte %td of shared memory of %zu bytes", address - memory.start(), memory.bytes());
    else if (overflown >= 0)
        say(" overflows its stack of %zu kB", Stacks::SIZE / 1024);
    else
        say(" touches memory that is not its own, at %p", static_cast<const void*>(address));
    if (line != 0) say(", after its collective in line %d", line);
}

}  // namespace

void fail(const char* message, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, message);
    std::vsnprintf(text, sizeof text, message, arguments);
    va_end(arguments);
    say("block %u: %s", blockIdx.x, text);
    leave();
}

Bits meet_warp(Kind kind, unsigned mask, Bits value, int operand, int width, int line) {
    Thread& me = threads[thread_now];
    me.kind = kind;
    me.mask = mask;
    me.value = value;
    me.operand = operand;
    me.width = width;
    me.line = line;
    const unsigned bit = 1u << (thread_now & 31), last = blockDim.x - warp_now * 32;
    if ((mask & bit) == 0) fail_to_meet("a thread is not in its own mask", thread_now, thread_now + 1);
    if (last < 32 && mask >> last != 0)
        fail_to_meet("a mask has lanes that the block has not", thread_now, thread_now + 1);
    if (width < 1 || width > 32 || (width & (width - 1)) != 0)
        fail_to_meet("a width is no power of two up to 32", thread_now, thread_now + 1);
    Warp& warp = warps[warp_now];
    warp.waiting |= bit;
    if ((warp.waiting & mask) == mask) release(warp, mask);
    next(me.context);
    return me.result;
}

int meet_block(Kind kind, int value, int line) {
    Thread& me = threads[thread_now];
    me.kind = kind;
    me.value = value != 0;
    me.line = line;
    ++at_barrier;
    next(me.context);
    return static_cast<int>(me.result);
}

void* own_stacks() {
    static Stacks stacks_of_this_library;
    return &stacks_of_this_library;
}

bool launch(void (*entry)(void**), void** arguments, const Launch* request, char* message, int size) {
    failure = message;
    failure_size = size;
    stacks = static_cast<Stacks*>(request->stacks);
    *message = 0;
    if (request->block < 1 || request->block > Stacks::MOST)
        say("a block has 1 to %zu threads, not %u", Stacks::MOST, request->block);
    else if (request->grid < 1 || request->grid > 0x7fffffff)
        say("a grid has 1 to 2147483647 blocks, not %u", request->grid);
    else if (request->shared_bytes > MOST_SHARED)
        say("a block has up to %llu bytes of shared memory, not %llu", MOST_SHARED, request->shared_bytes);
    else if (!stacks->grow(request->block) || !memory.resize(request->shared_bytes))
        say("no memory for the stacks of %u threads", request->block);
    else {
        kernel = entry;
        kernel_arguments = arguments;
        shared = memory.start();
        blockDim.x = request->block;
        gridDim.x = request->grid;
        thread_now = threadIdx.x = 0;
        order.start(request->order, request->seed);
        const auto run = [](const void* what) { run_grid(*static_cast<const Launch*>(what)); };
        catch_faults(run, request, say_fault);
    }
    return *message == 0;
}

}  // namespace mojd_host
