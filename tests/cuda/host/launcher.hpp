// Calls a kernel with arguments that come as pointers, as CUDA's own launches do.
#pragma once

namespace mojd_host {

template <class T>
struct Parameter {
    static constexpr char kind() {
        if constexpr (__is_class(T) || __is_union(T))
            return 's';
        else
            return static_cast<T>(1) / 2 == 0 ? 'i' : 'f';
    }
};
template <class T>
struct Parameter<T*> {
    static constexpr char kind() { return 'p'; }
};

template <class... P>
struct Call {
    // Arguments in braces are evaluated from left to right.
    Call(void (*kernel)(P...), P... arguments) { kernel(arguments...); }
};

template <class T>
T take(void**& arguments) {
    return *static_cast<T*>(*arguments++);
}

template <auto kernel>
struct Launcher;

template <class... P, void (*kernel)(P...)>
struct Launcher<kernel> {
    static void run(void** arguments) {
        (void)arguments;
        Call<P...>{kernel, take<P>(arguments)...};
    }
    // The kind and the size of each parameter.
    static constexpr char kinds[] = {Parameter<P>::kind()..., 0};
    static constexpr int sizes[] = {sizeof(P)..., 0};
};

}  // namespace mojd_host

#define MOJD_EXPORTED extern "C" __attribute__((visibility("default")))
#define MOJD_EXPORT(...)                                                                                    \
    MOJD_EXPORTED const char* mojd_host_kinds() { return mojd_host::Launcher<__VA_ARGS__>::kinds; }         \
    MOJD_EXPORTED const int* mojd_host_sizes() { return mojd_host::Launcher<__VA_ARGS__>::sizes; }          \
    MOJD_EXPORTED void* mojd_host_stacks() { return mojd_host::own_stacks(); }                              \
    MOJD_EXPORTED bool mojd_host_launch(void** arguments, const mojd_host::Launch* request, char* message,  \
                                        int size) {                                                         \
        return mojd_host::launch(mojd_host::Launcher<__VA_ARGS__>::run, arguments, request, message, size); \
    }
