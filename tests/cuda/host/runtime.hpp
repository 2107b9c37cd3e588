// The threads of a block as fibers: what the shim sees of runtime.cpp.
#pragma once

namespace mojd_host {

using Bits = unsigned long long;

// The order is that of the names in runtime.cpp.
enum Kind : int {
    NOT_STARTED,
    RUNNING,
    RETURNED,
    SYNC_THREADS,
    SYNC_THREADS_OR,
    SYNC_THREADS_AND,
    SYNC_THREADS_COUNT,
    SYNC_WARP,
    BALLOT,
    ANY,
    ALL,
    SHUFFLE,
    SHUFFLE_XOR,
    SHUFFLE_UP,
    SHUFFLE_DOWN,
};

// The same structure is in compile.py.
struct Launch {
    unsigned grid, block;
    Bits shared_bytes;
    int order;  // 0 ascending, 1 descending, 2 shuffled
    Bits seed;
    void* stacks;  // of any of the libraries
};

// The dynamic shared memory of the block that runs.
extern void* shared;

// Waits for the lanes in `mask`, and returns the ballot or what was read from another lane.
Bits meet_warp(Kind kind, unsigned mask, Bits value, int operand, int width, int line);
// Waits for the whole block, and returns the vote.
int meet_block(Kind kind, int value, int line);
// Ends the launch: the message is a format for printf.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* message, ...);
// The stacks of this library. The kernels of a process share those of one: a process can have only so many
// separate pieces of memory.
void* own_stacks();
// Runs a grid; returns whether nothing went wrong, else says what.
bool launch(void (*entry)(void**), void** arguments, const Launch* request, char* message, int size);

}  // namespace mojd_host
