"""Text to music in three autoregressive stages (MusicLM, Agostinelli et al. 2023), on the Hugging Face stack."""

from .version import __version__

__all__ = ["__version__"]
