// Contexts to switch between: a stack each, and whatever a call has to keep.
#pragma once

#include <cstddef>

#if defined(__x86_64__) && defined(__linux__) && !defined(MOJD_PORTABLE_SWITCH)

// A few instructions, with a return that the processor predicts: all fibers wait at the same call.
extern "C" __attribute__((visibility("hidden"))) void mojd_host_switch(void** from, void* to);
asm(R"(
    .text
    .hidden mojd_host_switch
    .globl mojd_host_switch
    .type mojd_host_switch, @function
mojd_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size mojd_host_switch, .-mojd_host_switch
)");

namespace mojd_host {

struct Context {
    void* stack_pointer;
};

// Makes a context that begins with `start`, on a stack that ends at `top`, a multiple of 16.
inline void prepare(Context& context, char* top, std::size_t, void (*start)()) {
    void** frame = reinterpret_cast<void**>(top) - 8;
    for (int i = 0; i < 8; ++i) frame[i] = nullptr;
    frame[6] = reinterpret_cast<void*>(start);
    context.stack_pointer = frame;
}

inline void switch_context(Context& from, Context& to) {
    mojd_host_switch(&from.stack_pointer, to.stack_pointer);
}

}  // namespace mojd_host

#else

#include <setjmp.h>
#include <ucontext.h>

namespace mojd_host {

struct Context {
    ucontext_t start;
    jmp_buf rest;
    bool started = true;
};

inline void prepare(Context& context, char* top, std::size_t size, void (*start)()) {
    getcontext(&context.start);
    context.start.uc_stack.ss_sp = top - size;
    context.start.uc_stack.ss_size = size;
    context.start.uc_link = nullptr;
    makecontext(&context.start, start, 0);
    context.started = false;
}

// Only the first switch to a context is made by setcontext, which asks the system for its mask of signals.
inline void switch_context(Context& from, Context& to) {
    if (_setjmp(from.rest) != 0) return;
    if (to.started) _longjmp(to.rest, 1);
    to.started = true;
    setcontext(&to.start);
}

}  // namespace mojd_host

#endif
