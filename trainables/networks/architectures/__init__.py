"""The architectures without their networks: this package does not import PyTorch."""
