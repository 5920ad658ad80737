"""How tokens are made one after another: sampling, memory, and the back-ends from plain PyTorch to recorded kernels."""
