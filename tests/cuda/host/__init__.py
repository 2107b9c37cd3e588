"""CUDA kernels on the CPU, for tests on machines without a GPU.

`compile.build` compiles kernels with the host's C++ compiler behind `shim.hpp`, and `Library.launch` runs
them, as many fibers as a block has threads, one at a time. It is stricter than a GPU. A launch fails with a
message

- where threads of a block end at different barriers, or at one that some never reach;
- where the lanes of a mask meet at different collectives, masks, widths or, but for __syncwarp, lines;
- where a mask lacks the lane itself or one that it reads, or has lanes that the block has not or that
  have returned;
- where something touches memory beyond shared memory or the stack, or an array from `launching.guarded`.

Shared memory is NaN before every block. Whatever depends on the order in which threads run between two
collectives is a race: launches in several orders have to give the same bits.
"""
