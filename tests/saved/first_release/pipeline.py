"""Lets `DiffusionPipeline.from_pretrained(…, trust_remote_code=True)` find the installed package (pip install open-musiclm)."""

from open_musiclm import MusicLMPipeline

__all__ = ["MusicLMPipeline"]
