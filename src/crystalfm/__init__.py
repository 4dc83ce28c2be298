"""crystalfm: multimodal models of molecules and crystals on Hydra and PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crystalfm.run.api import Predictions, Predictor, load

__version__ = "0.1.0"
__all__ = ["Predictions", "Predictor", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the Python interface when it is first used: ``import crystalfm`` takes no time."""
    if name in {"Predictions", "Predictor", "load"}:
        return getattr(import_module("crystalfm.run.api"), name)
    raise AttributeError(f"module 'crystalfm' has no attribute {name!r}")
