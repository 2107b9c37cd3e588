// In which order fibers, warps and blocks take their turns.
#pragma once

#include <cstdint>

namespace mojd_host {

class Order {
  public:
    void start(int kind, std::uint64_t seed) {
        kind_ = kind;
        state_ = (seed + 1) * 0x9e3779b97f4a7c15u | 1;
    }

    // The next of a set, which is not empty.
    int pick(std::uint32_t set) {
        if (kind_ == 0) return __builtin_ctz(set);
        if (kind_ == 1) return 31 - __builtin_clz(set);
        const std::uint32_t size = static_cast<std::uint32_t>(__builtin_popcount(set));
#ifdef __BMI2__
        return __builtin_ctz(__builtin_ia32_pdep_si(1u << below(size), set));
#else
        for (std::uint32_t skip = below(size); skip != 0; --skip) set &= set - 1;
        return __builtin_ctz(set);
#endif
    }

    // All of 0..count - 1.
    void permute(std::uint32_t* numbers, std::uint32_t count) {
        for (std::uint32_t i = 0; i < count; ++i) {
            numbers[i] = kind_ == 1 ? count - 1 - i : i;
            if (kind_ != 2) continue;
            const std::uint32_t other = below(i + 1);
            numbers[i] = numbers[other];
            numbers[other] = i;
        }
    }

  private:
    // A number below `count`, by xorshift.
    std::uint32_t below(std::uint32_t count) {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return static_cast<std::uint32_t>((state_ >> 32) * count >> 32);
    }

    int kind_ = 0;
    std::uint64_t state_ = 1;
};

}  // namespace mojd_host
