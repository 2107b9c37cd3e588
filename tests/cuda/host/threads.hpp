// The threads of a block, and sentences about where they stand.
#pragma once

#include <cstdarg>
#include <cstdio>

#include "memory.hpp"
#include "runtime.hpp"
#include "switch.hpp"

namespace mojd_host {

constexpr const char* NAMES[] = {
    "have not started",
    "are between collectives",
    "have returned",
    "wait at __syncthreads",
    "wait at __syncthreads_or",
    "wait at __syncthreads_and",
    "wait at __syncthreads_count",
    "wait at __syncwarp",
    "wait at __ballot_sync",
    "wait at __any_sync",
    "wait at __all_sync",
    "wait at __shfl_sync",
    "wait at __shfl_xor_sync",
    "wait at __shfl_up_sync",
    "wait at __shfl_down_sync",
};

inline bool is_shuffle(Kind kind) { return kind >= SHUFFLE; }
inline bool is_of_warp(Kind kind) { return kind >= SYNC_WARP; }

// In a line of the cache, where the context is small.
struct alignas(64) Thread {
    Context context;
    Bits value, result;
    Kind kind;
    unsigned mask;
    int operand, width, line;
};

inline Thread threads[Stacks::MOST];

// What is left of the room for a message.
inline char* failure;
inline int failure_size;

// Appends to the message of a failed launch.
__attribute__((format(printf, 1, 2))) inline void say(const char* text, ...) {
    va_list arguments;
    va_start(arguments, text);
    const int size = std::vsnprintf(failure, static_cast<std::size_t>(failure_size), text, arguments);
    va_end(arguments);
    const int written = size < failure_size ? size : failure_size - 1;
    failure += written;
    failure_size -= written;
}

inline bool same_place(const Thread& a, const Thread& b) {
    if (a.kind != b.kind) return false;
    if (a.kind < SYNC_THREADS) return true;
    return a.line == b.line && (!is_of_warp(a.kind) || (a.mask == b.mask && a.width == b.width));
}

// Says which of the threads from `first` to `last` stand where.
inline void say_where(unsigned first, unsigned last) {
    constexpr int MOST_PLACES = 12;
    int places = 0;
    for (unsigned i = first; i < last; ++i) {
        unsigned known = first;
        while (!same_place(threads[known], threads[i])) ++known;
        if (known != i) continue;
        if (++places > MOST_PLACES) {
            say("; and more");
            return;
        }
        say(places == 1 ? ": threads " : "; threads ");
        for (unsigned j = i, runs = 0; j < last; ++j) {
            if (!same_place(threads[i], threads[j])) continue;
            const unsigned start = j;
            while (j + 1 < last && same_place(threads[i], threads[j + 1])) ++j;
            say(runs++ == 0 ? "%u" : ",%u", start);
            if (j != start) say("-%u", j);
        }
        say(" %s", NAMES[threads[i].kind]);
        if (is_of_warp(threads[i].kind)) say(" with mask 0x%08x", threads[i].mask);
        if (is_shuffle(threads[i].kind)) say(" and width %d", threads[i].width);
        if (threads[i].kind >= SYNC_THREADS) say(" in line %d", threads[i].line);
    }
}

}  // namespace mojd_host
