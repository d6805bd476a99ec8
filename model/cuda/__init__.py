"""What runs on a CUDA device: the kernels, and the few CuPy calls that launch them."""
