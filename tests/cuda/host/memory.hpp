// Memory between guards, pages that cannot be touched: the fibers' stacks, and a block's shared memory.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

namespace mojd_host {

inline std::size_t page_size() {
    static const std::size_t size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

// Maps `size` bytes between guards, all multiples of pages.
inline char* map_guarded(std::size_t size, std::size_t guard) {
    void* start =
        mmap(nullptr, size + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    char* memory = static_cast<char*>(start) + guard;
    if (size != 0 && mprotect(memory, size, PROT_READ | PROT_WRITE) != 0) return nullptr;
    return memory;
}

// Shared memory that ends where a page does. Whatever of its first and last piece of 16 bytes was not asked
// for, and the rest of its first page, is watched for changes.
class SharedMemory {
  public:
    // Signalling NaN as doubles, and no sensible int.
    static constexpr std::uint64_t POISON = 0x7ff4baadf00dbaadu;
    static constexpr std::size_t GUARD = 1024 * 1024;

    bool resize(std::size_t bytes) {
        const std::size_t page = page_size(), padded = (bytes + 15) / 16 * 16;
        const std::size_t mapped = (padded + page - 1) / page * page;
        if (memory_ == nullptr || mapped != mapped_) {
            if (memory_ != nullptr) munmap(memory_ - GUARD, mapped_ + 2 * GUARD);
            memory_ = map_guarded(mapped, GUARD);
            if (memory_ == nullptr) return false;
            mapped_ = mapped;
        }
        bytes_ = bytes;
        start_ = memory_ + mapped - padded;
        return true;
    }

    // Forgets what the last block left: nobody may read what nobody wrote.
    void poison() const {
        for (std::size_t i = 0; i < mapped_; i += sizeof POISON)
            std::memcpy(memory_ + i, &POISON, sizeof POISON);
    }

    // The offset from the start of shared memory of a byte beside it that has changed, or 0.
    std::ptrdiff_t trespass() const {
        for (const char* word = start_; word != memory_;) {
            word -= sizeof POISON;
            if (std::memcmp(word, &POISON, sizeof POISON) == 0) continue;
            const char* byte = word + sizeof POISON - 1;
            while (!changed(byte)) --byte;
            return byte - start_;
        }
        for (const char* byte = start_ + bytes_; byte != memory_ + mapped_; ++byte)
            if (changed(byte)) return byte - start_;
        return 0;
    }

    // Whether an address is in shared memory or in the guards around.
    bool is_near(const char* address) const {
        return address >= memory_ - GUARD && address < memory_ + mapped_ + GUARD;
    }

    char* start() const { return start_; }
    std::size_t bytes() const { return bytes_; }

  private:
    bool changed(const char* byte) const {
        return *byte != reinterpret_cast<const char*>(&POISON)[(byte - memory_) % sizeof POISON];
    }

    char* memory_ = nullptr;
    char* start_ = nullptr;
    std::size_t mapped_ = 0, bytes_ = 0;
};

// Stacks that are kept from launch to launch, each between guard pages: code compiled with
// -fstack-clash-protection steps over none.
class Stacks {
  public:
    static constexpr std::size_t SIZE = 64 * 1024, MOST = 1024;

    bool grow(unsigned count) {
        for (; count_ < count; ++count_)
            if ((stacks_[count_] = map_guarded(SIZE, page_size())) == nullptr) return false;
        return true;
    }

    // Where a stack begins, at its upper end. Those of a warp begin in different sets of the cache.
    char* top(unsigned thread) const { return stacks_[thread] + SIZE - (thread % 32) * 128; }

    // The thread into whose guard page an address falls, or -1.
    int overflown(const char* address) const {
        for (unsigned i = 0; i < count_; ++i)
            if (address < stacks_[i] && address >= stacks_[i] - page_size()) return static_cast<int>(i);
        return -1;
    }

  private:
    char* stacks_[MOST] = {};
    unsigned count_ = 0;
};

}  // namespace mojd_host
