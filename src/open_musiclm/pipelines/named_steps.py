"""The steps of MusicLM's three stages under the names that were published first: thin names over the steps of any."""

from __future__ import annotations

import torch


class NamedSteps:
    """`generate_semantic_tokens`, … of a pipeline: see `MusicLMPipeline.generate_tokens` and `decode_streams`."""

    def generate_semantic_tokens(
        self, clap_token_ids: torch.Tensor, audio_length_in_s: float, generator=None, on_token=None, **settings
    ) -> torch.Tensor:
        """CLAP tokens → semantic tokens (batch, frames): as long as the audio, and at least one coarse window."""
        tokens = {"clap": clap_token_ids}
        return self.generate_tokens("semantic", tokens, audio_length_in_s, generator, on_token, **settings)  # type: ignore[attr-defined]

    def generate_coarse_tokens(
        self,
        clap_token_ids: torch.Tensor,
        semantic_token_ids: torch.Tensor,
        audio_length_in_s: float,
        generator=None,
        on_token=None,
        **settings,
    ) -> torch.Tensor:
        """CLAP and semantic tokens → coarse tokens (batch, frames, codebooks): at least one fine window."""
        tokens = {"clap": clap_token_ids, "semantic": semantic_token_ids}
        return self.generate_tokens("coarse", tokens, audio_length_in_s, generator, on_token, **settings)  # type: ignore[attr-defined]

    def generate_fine_tokens(
        self,
        clap_token_ids: torch.Tensor,
        coarse_token_ids: torch.Tensor,
        audio_length_in_s: float,
        generator=None,
        on_token=None,
        **settings,
    ) -> torch.Tensor:
        """CLAP and coarse tokens → fine tokens (batch, frames, codebooks)."""
        tokens = {"clap": clap_token_ids, "coarse": coarse_token_ids}
        return self.generate_tokens("fine", tokens, audio_length_in_s, generator, on_token, **settings)  # type: ignore[attr-defined]

    def decode_tokens(
        self, coarse_token_ids: torch.Tensor, fine_token_ids: torch.Tensor, audio_length_in_s: float | None = None
    ) -> torch.Tensor:
        """Coarse and fine tokens (batch, frames, codebooks) → waveform (batch, channels, samples) float32."""
        tokens = {"coarse": coarse_token_ids, "fine": fine_token_ids}
        return self.decode_streams(tokens, audio_length_in_s)  # type: ignore[attr-defined]
