"""Triton alternatives of the CUDA kernels, one file an operator; installed as `ggnet.kernels`."""
