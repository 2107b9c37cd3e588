// Faults that end a launch, and not the process.
#pragma once

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

namespace mojd_host {

constexpr int FAULTS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
constexpr int FAULT_COUNT = 4;

inline sigjmp_buf way_out;
inline pthread_t faulting_thread;
inline struct sigaction others[FAULT_COUNT];
inline void (*describe)(int signal, const char* address);

// Ends the launch from wherever it is: the fibers have nothing to clean up.
[[noreturn]] inline void leave() { siglongjmp(way_out, 1); }

inline void on_fault(int signal, siginfo_t* information, void*) {
    if (pthread_equal(pthread_self(), faulting_thread)) {
        describe(signal, static_cast<const char*>(information->si_addr));
        leave();
    }
    // Another thread's fault is not ours: it happens again on return, with whoever was to handle it.
    for (int i = 0; i < FAULT_COUNT; ++i)
        if (FAULTS[i] == signal) sigaction(signal, &others[i], nullptr);
}

// Calls run(what), until it returns, leaves, or faults; `say` describes a fault. Stacks may be exhausted, so
// that the handler has its own.
inline void catch_faults(void (*run)(const void*), const void* what, void (*say)(int, const char*)) {
    alignas(16) static char memory[64 * 1024];
    stack_t stack = {}, other = {};
    stack.ss_sp = memory;
    stack.ss_size = sizeof memory;
    sigaltstack(&stack, &other);
    describe = say;
    faulting_thread = pthread_self();
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < FAULT_COUNT; ++i) sigaction(FAULTS[i], &action, &others[i]);
    if (sigsetjmp(way_out, 1) == 0) run(what);
    for (int i = 0; i < FAULT_COUNT; ++i) sigaction(FAULTS[i], &others[i], nullptr);
    sigaltstack(&other, nullptr);
}

}  // namespace mojd_host
