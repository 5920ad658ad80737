"""CLAP: texts and windows of audio → embeddings in one space.

text, 10 s of audio ── CLAP ──→ embedding ── ClapQuantizer ──→ CLAP tokens
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

#: text tokens that the published CLAP reads
CLAP_TEXT_LENGTH = 77


@torch.no_grad()
def clap_text_embeddings(clap, processor, texts: Sequence[str]) -> torch.Tensor:
    """Texts → L2-normed CLAP embeddings (batch, embedding_dim).

    Every text is padded to one length, so that its embedding does not depend on what else is in the batch. Of a text that
    is longer than CLAP reads, the end is lost: a `UserWarning` says so, once for the same texts.
    """
    text_config = clap.config.text_config
    longest = text_config.max_position_embeddings - (text_config.pad_token_id or 0) - 1
    max_length = min(CLAP_TEXT_LENGTH, longest)
    _warn_of_long_texts(processor.tokenizer, texts, max_length)
    tokens = processor.tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
    ).to(clap.device)
    outputs = clap.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    return outputs.pooler_output


def _warn_of_long_texts(tokenizer, texts: Sequence[str], max_length: int) -> None:
    tokens = tokenizer(list(texts), verbose=False)["input_ids"]
    cut = [ids for ids in tokens if len(ids) > max_length]
    if cut:
        read = tokenizer.decode(cut[0][: max_length - 1], skip_special_tokens=True).strip()
        warnings.warn(
            f"CLAP reads {max_length} tokens of a text: {len(cut)} of {len(texts)} texts are longer, and the rest of them is "
            f"not heard. The first is read up to “…{read[-60:]}”.",
            stacklevel=3,
        )


@torch.no_grad()
def clap_audio_embeddings(clap, processor, windows: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Windows of mono audio (batch, samples) at CLAP's rate → L2-normed embeddings (batch, embedding_dim).

    The audio is rounded through int16, as CLAP was trained. A window is at most as long as the feature extractor's
    `max_length_s`: the extractor would crop a longer one at random. No window is one, whatever the extractor says: of a
    batch for a CLAP with fusion it calls one, drawn at random, longer, and that one's embedding would be another.
    """
    extractor = processor.feature_extractor
    audio = np.asarray(torch.as_tensor(windows).float().cpu())
    if audio.ndim != 2 or not audio.shape[1]:
        raise ValueError(f"CLAP windows must have the shape (batch, samples), got {audio.shape}.")
    if audio.shape[1] > extractor.nb_max_samples:
        raise ValueError(
            f"A CLAP window has at most {extractor.nb_max_samples} samples "
            f"({extractor.max_length_s} s at {extractor.sampling_rate} Hz), got {audio.shape[1]}."
        )
    audio = (np.clip(audio, -1.0, 1.0) * 32767.0).astype(np.int16).astype(np.float32) / 32767.0
    features = extractor(list(audio), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    outputs = clap.get_audio_features(
        input_features=features["input_features"].to(clap.device, clap.dtype),
        is_longer=torch.zeros(len(audio), 1, dtype=torch.bool, device=clap.device),
    )
    return outputs.pooler_output
