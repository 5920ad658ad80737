"""Best of N: of several waveforms for one prompt, those whose CLAP embedding is nearest to the prompt's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..audio import resample
from ..tokenizers.clap import clap_audio_embeddings, clap_text_embeddings


@dataclass(frozen=True)
class Ranking:
    """
    Candidates of each prompt, by their similarity to it.

    Args:
        similarities (prompts, candidates): cosine of the text's and the audio's CLAP embedding, in the candidates' order.
        order (prompts, candidates): places of the candidates, the nearest first; equal ones keep their order.
    """

    similarities: torch.Tensor
    order: torch.Tensor


def rank_by_clap(
    clap,
    processor,
    prompts: Sequence[str],
    audios: torch.Tensor | np.ndarray | Sequence[np.ndarray],
    sampling_rate: int,
    text_embeddings: torch.Tensor | None = None,
) -> Ranking:
    """Rank the candidates of each prompt by CLAP similarity, as the original's top match does.

    Args:
        prompts: the texts.
        audios (prompts · candidates, channels, samples), or a sequence of (channels, samples): the candidates of the
            first prompt, then those of the second, ….
        sampling_rate: of the audios, in Hz.
        text_embeddings (prompts, dim): instead of the texts' own.

    Audio longer than CLAP's window is cut into windows side by side, the last one filled by repetition, and their
    similarities are averaged.
    """
    if text_embeddings is None:
        text_embeddings = clap_text_embeddings(clap, processor, prompts)
    num_prompts = len(text_embeddings)
    if not num_prompts or not len(audios) or len(audios) % num_prompts:
        raise ValueError(
            f"{len(audios)} waveforms are not the same number of candidates for each of {num_prompts} prompts."
        )
    embeddings = [clap_embeddings_of_clip(clap, processor, audio, sampling_rate) for audio in audios]
    num_candidates = len(audios) // num_prompts
    text_embeddings = torch.nn.functional.normalize(text_embeddings.float(), dim=-1)
    similarities = torch.stack(
        [(windows @ text_embeddings[i // num_candidates]).mean() for i, windows in enumerate(embeddings)]
    ).reshape(num_prompts, num_candidates)
    return Ranking(similarities.cpu(), similarities.argsort(dim=1, descending=True, stable=True).cpu())


def clap_embeddings_of_clip(clap, processor, audio: torch.Tensor | np.ndarray, sampling_rate: int) -> torch.Tensor:
    """One waveform (channels, samples) → L2-normed CLAP embeddings (windows, dim), float32."""
    extractor = processor.feature_extractor
    mono = torch.as_tensor(audio).float().mean(dim=0).cpu().numpy()
    mono = resample(mono, sampling_rate, extractor.sampling_rate)
    size = extractor.nb_max_samples
    windows = [mono[start : start + size] for start in range(0, len(mono), size)]
    if len(windows) > 1:
        windows[-1] = np.resize(windows[-1], size)
    embeddings = clap_audio_embeddings(clap, processor, np.stack(windows))
    return torch.nn.functional.normalize(embeddings.float(), dim=-1)
