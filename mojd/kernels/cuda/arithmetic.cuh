// Powers of two, products whose rounding errors are kept, and float64's special values.
#pragma once

namespace mojd {

__device__ inline double infinity() { return __longlong_as_double(0x7ff0000000000000LL); }
__device__ inline double nan_value() { return __longlong_as_double(0x7ff8000000000000LL); }
__device__ inline bool is_finite(double value) { return fabs(value) < infinity(); }

// 2^k for -1022 <= k <= 1023.
__device__ inline double power_of_two(int k) { return __longlong_as_double((k + 1023LL) << 52); }

__device__ inline double widen(double value) { return value; }

// A float as a double, by its bits: CuPy compiles so that the conversion itself takes subnormal numbers for
// 0.
__device__ inline double widen(float value) {
    unsigned bits = __float_as_uint(value), exponent = bits >> 23 & 0xff;
    long long sign = static_cast<long long>(bits >> 31) << 63, fraction = bits & 0x7fffff;
    if (exponent == 0) {
        double magnitude = static_cast<double>(fraction) * power_of_two(-149);
        return __longlong_as_double(sign | __double_as_longlong(magnitude));
    }
    // Infinity and NaN stay what they are.
    long long wide = exponent == 0xff ? 0x7ff : exponent + 896LL;
    return __longlong_as_double(sign | wide << 52 | fraction << 29);
}

// 2^k such that 4^k * diagonal lies in [1/2, 2), for a positive diagonal.
__device__ inline double power_of_two_scale(double diagonal) {
    int exponent;
    frexp(diagonal, &exponent);
    return ldexp(1.0, -(exponent >> 1));
}

// a*b - c*d within 1.5 ulp, without cancellation (Kahan's algorithm).
__device__ inline double difference_of_products(double a, double b, double c, double d) {
    double cd = __dmul_rn(c, d);
    return __dsub_rn(__fma_rn(a, b, -cd), __fma_rn(c, d, -cd));
}

// An unevaluated sum of two numbers, the second of which keeps what rounding takes from the first.
struct Pair {
    double total, error;

    // Adds a*b: a step of Dot2 of Ogita, Rump and Oishi (SIAM J. Sci. Comput. 26, 2005). The intrinsics keep
    // the compiler from contracting a product and a sum, which would break what is exact here.
    __device__ void add_product(double a, double b) {
        double product = __dmul_rn(a, b);
        double product_error = __fma_rn(a, b, -product);
        double sum = __dadd_rn(total, product);
        double part = __dsub_rn(sum, total);
        double rounding = __dadd_rn(__dsub_rn(total, __dsub_rn(sum, part)), __dsub_rn(product, part));
        total = sum;
        error = __dadd_rn(error, __dadd_rn(rounding, product_error));
    }

    __device__ double value() const { return __dadd_rn(total, error); }
};

}  // namespace mojd
