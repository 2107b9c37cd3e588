// CUDA's arithmetic for a host compiler. Bits are those of the GPU: these are all rounded correctly.
#pragma once

// The C library's own declarations, without <cmath>.
extern "C" {
double fma(double, double, double) noexcept;
double sqrt(double) noexcept;
double fabs(double) noexcept;
double fmin(double, double) noexcept;
double fmax(double, double) noexcept;
double ldexp(double, int) noexcept;
double scalbn(double, int) noexcept;
double frexp(double, int*) noexcept;
int ilogb(double) noexcept;
double copysign(double, double) noexcept;
double floor(double) noexcept;
double ceil(double) noexcept;
double rint(double) noexcept;
}
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float sqrt(float a) { return __builtin_sqrtf(a); }
inline float fabs(float a) { return __builtin_fabsf(a); }
inline float fmin(float a, float b) { return __builtin_fminf(a, b); }
inline float fmax(float a, float b) { return __builtin_fmaxf(a, b); }

#define MOJD_CLASSIFY(T)                                        \
    inline bool isfinite(T a) { return __builtin_isfinite(a); } \
    inline bool isnan(T a) { return __builtin_isnan(a); }       \
    inline bool isinf(T a) { return __builtin_isinf(a) != 0; }  \
    inline bool signbit(T a) { return __builtin_signbit(a) != 0; }
MOJD_CLASSIFY(float)
MOJD_CLASSIFY(double)

#define MOJD_EXTREMES(T)                             \
    inline T min(T a, T b) { return a < b ? a : b; } \
    inline T max(T a, T b) { return a < b ? b : a; }
MOJD_EXTREMES(int)
MOJD_EXTREMES(unsigned)
MOJD_EXTREMES(long)
MOJD_EXTREMES(unsigned long)
MOJD_EXTREMES(long long)
MOJD_EXTREMES(unsigned long long)
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline float min(float a, float b) { return fmin(a, b); }
inline float max(float a, float b) { return fmax(a, b); }

// Compiled without contraction, so that an operator is one rounding.
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __drcp_rn(double a) { return 1.0 / a; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

inline unsigned __float_as_uint(float a) {
    unsigned bits;
    __builtin_memcpy(&bits, &a, sizeof bits);
    return bits;
}
inline long long __double_as_longlong(double a) {
    long long bits;
    __builtin_memcpy(&bits, &a, sizeof bits);
    return bits;
}
inline double __longlong_as_double(long long bits) {
    double a;
    __builtin_memcpy(&a, &bits, sizeof a);
    return a;
}

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a == 0 ? 32 : __builtin_clz(static_cast<unsigned>(a)); }
inline int __clzll(long long a) { return a == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(a)); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }

template <class T>
inline T __ldg(const T* a) {
    return *a;
}

// Nothing comes between a fiber's reading and its writing.
template <class T>
inline T mojd_exchange(T* place, T value) {
    const T old = *place;
    *place = value;
    return old;
}
#define MOJD_ATOMICS(T)                                                                                    \
    inline T atomicAdd(T* place, T value) { return mojd_exchange(place, static_cast<T>(*place + value)); } \
    inline T atomicMin(T* place, T value) { return mojd_exchange(place, min(*place, value)); }             \
    inline T atomicMax(T* place, T value) { return mojd_exchange(place, max(*place, value)); }             \
    inline T atomicOr(T* place, T value) { return mojd_exchange(place, *place | value); }                  \
    inline T atomicAnd(T* place, T value) { return mojd_exchange(place, *place & value); }                 \
    inline T atomicExch(T* place, T value) { return mojd_exchange(place, value); }                         \
    inline T atomicCAS(T* place, T compare, T value) {                                                     \
        return mojd_exchange(place, *place == compare ? value : *place);                                   \
    }
MOJD_ATOMICS(int)
MOJD_ATOMICS(unsigned)
MOJD_ATOMICS(unsigned long long)
inline double atomicAdd(double* place, double value) { return mojd_exchange(place, *place + value); }

inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] inline void __trap() { mojd_host::fail("__trap()"); }
