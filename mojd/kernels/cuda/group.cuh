// Threads that solve one problem together: a tile of a warp, or a block.
//
// Every function that takes a group is called by all of its threads, with the same arguments. What it writes
// to shared or global memory is visible to all of them when it returns. Decisions are made on values that
// all threads have, bit for bit: reductions give the same to each.
#pragma once

namespace mojd {

// The least value and where it was found, the first place if there are several; -1 for nowhere.
struct Least {
    double value;
    int index;

    __device__ void take(double other, int at) {
        if (at >= 0 && (index < 0 || other < value || (other == value && at < index))) {
            value = other;
            index = at;
        }
    }
};

// W neighbouring lanes of a warp, W a power of two.
template <int W>
struct Tile {
    using Panel = Tile<W>;
    static constexpr int size = W;
    // How many rows of a factor are computed at once, and how many rows above are taken off them at once.
    static constexpr int strip = W < 8 ? W : 8, stage = W;
    int rank;
    unsigned mask;

    __device__ Tile() : rank(threadIdx.x % W), mask(~0u) {
        if (W < 32) mask = ((1u << W % 32) - 1) << (threadIdx.x % 32 / W * W);
    }
    __device__ Panel panel() const { return *this; }
    __device__ void sync() const { __syncwarp(mask); }

    __device__ double broadcast(double value, int source) const {
        return __shfl_sync(mask, value, source, W);
    }
    __device__ double sum(double value) const {
        for (int step = W / 2; step > 0; step /= 2) value += __shfl_xor_sync(mask, value, step, W);
        return value;
    }
    __device__ double maximum(double value) const {
        for (int step = W / 2; step > 0; step /= 2) {
            double other = __shfl_xor_sync(mask, value, step, W);
            value = other > value ? other : value;
        }
        return value;
    }
    __device__ Least least(Least own) const {
        for (int step = W / 2; step > 0; step /= 2) {
            double value = __shfl_xor_sync(mask, own.value, step, W);
            int index = __shfl_xor_sync(mask, own.index, step, W);
            own.take(value, index);
        }
        return own;
    }
    __device__ bool any(bool flag) const { return (__ballot_sync(mask, flag) & mask) != 0; }

    // How many lanes before this one have the flag; `total` becomes how many have it.
    __device__ int count_before(bool flag, int& total) const {
        unsigned flags = (__ballot_sync(mask, flag) & mask) >> (threadIdx.x % 32 / W * W);
        total = __popc(flags);
        return __popc(flags & ((1u << rank) - 1));
    }
};

// All threads of a block, a multiple of 32 of them. `scratch` is shared memory for 64 numbers.
struct Block {
    using Panel = Tile<32>;
    static constexpr int strip = 8, stage = 32;
    int rank, size;
    double* scratch;

    __device__ explicit Block(double* room) : rank(threadIdx.x), size(blockDim.x), scratch(room) {}
    __device__ Panel panel() const { return Panel(); }
    __device__ void sync() const { __syncthreads(); }

    __device__ double sum(double value) const {
        value = Panel().sum(value);
        share(value);
        double total = 0.0;
        for (int i = 0; i < size / 32; i++) total += scratch[i];
        sync();
        return total;
    }
    __device__ double maximum(double value) const {
        value = Panel().maximum(value);
        share(value);
        for (int i = 0; i < size / 32; i++) value = scratch[i] > value ? scratch[i] : value;
        sync();
        return value;
    }
    __device__ Least least(Least own) const {
        own = Panel().least(own);
        if (rank % 32 == 0) scratch[32 + rank / 32] = own.index;
        share(own.value);
        Least found{0.0, -1};
        for (int i = 0; i < size / 32; i++) found.take(scratch[i], static_cast<int>(scratch[32 + i]));
        sync();
        return found;
    }
    __device__ bool any(bool flag) const { return __syncthreads_or(flag) != 0; }

    __device__ int count_before(bool flag, int& total) const {
        int own, before = Panel().count_before(flag, own);
        share(own);
        total = 0;
        for (int i = 0; i < size / 32; i++) {
            int count = static_cast<int>(scratch[i]);
            before += i < rank / 32 ? count : 0;
            total += count;
        }
        sync();
        return before;
    }

  private:
    __device__ void share(double value) const {
        if (rank % 32 == 0) scratch[rank / 32] = value;
        sync();
    }
};

// Whether a thread belongs to the panel that works on what is too small for the whole group.
template <class Group>
__device__ bool in_panel(const Group& group) {
    return group.rank < Group::Panel::size;
}

// Moves array[p + 1 .. m) one place down.
template <class Group, class T>
__device__ void shift_down(const Group& group, T* array, int p, int m) {
    for (int first = p; first < m - 1; first += group.size) {
        int i = first + group.rank;
        T value{};
        if (i < m - 1) value = array[i + 1];
        group.sync();
        if (i < m - 1) array[i] = value;
        group.sync();
    }
}

}  // namespace mojd
