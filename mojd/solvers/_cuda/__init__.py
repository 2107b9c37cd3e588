"""CUDA: which kernels to run (`plans`), on what (`devices`, `libraries`), from which text (`source`)."""
