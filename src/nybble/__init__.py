"""4-bit training of neural networks for PyTorch."""
