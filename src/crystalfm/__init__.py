"""crystalfm: multimodal models of molecules and crystals on Hydra and PyTorch Lightning."""

__version__ = "0.1.0"
