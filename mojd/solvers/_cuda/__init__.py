"""CUDA: which kernels to run in what order (`plans`), on whose memory (`devices`), from which text (`source`)."""
