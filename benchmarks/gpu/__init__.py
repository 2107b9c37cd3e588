"""What `run_gpu.py` measures, one module a question, and the machine that it is asked of."""
