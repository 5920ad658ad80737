"""Text-to-audio models of transformers: MusicGen with what it can be asked for, and any other as its pipeline runs it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...audio import resample
from ...pipelines.mixtures import Recording
from ..embedders.networks import weights_fingerprint
from ..metrics.chroma import chromagram
from .plain import plain_values
from .requests import refuse_requests

__all__ = ["TransformersSystem", "load_transformers"]

#: of MusicGen's melodies, where a checkpoint does not say: its `preprocessor_config.json`, as published
CHROMA = {"sampling_rate": 32_000, "n_fft": 2**14, "hop_length": 2**12}


class TransformersSystem:
    """A text-to-audio model of transformers (MusicGen, ...), through its own `text-to-audio` pipeline.

    Its `generate` draws from torch's global generator and takes no other: the global state is put aside, seeded for the
    call, and put back.

    Args:
        chroma: of a model that follows melodies, the settings of its chromagrams.
    """

    max_batch_size = 1

    def __init__(self, name: str, pipeline, source: str, chroma: Mapping[str, int] | None = None):
        self.name, self.pipeline, self.source, self.device = name, pipeline, source, str(pipeline.device)
        self.chroma = {**CHROMA, **(chroma or {})}

    def describe(self) -> dict[str, Any]:
        config = self.pipeline.model.config
        return {
            "kind": "transformers",
            "model": self.source,
            "model_type": config.model_type,
            "revision": getattr(config, "_commit_hash", None),
            "weights": weights_fingerprint(self.pipeline.model),
            "generation": plain_values(self.pipeline.model.generation_config.to_diff_dict()),
        }

    @property
    def takes(self) -> tuple[str, ...]:
        """What it can be asked for, read off the model: by name of `open-musiclm generate`'s arguments."""
        model = self.pipeline.model
        arguments = inspect.signature(model.forward).parameters
        could = {
            "temperature": model.can_generate(),
            # a checkpoint that was trained for guidance is saved with the scale it is usually given
            "guidance_scale": model.generation_config.guidance_scale is not None,
            "melody": "input_features" in arguments and hasattr(model.config, "num_chroma"),
            "beginning": "decoder_input_ids" in arguments and self._frame_rate is not None,
        }
        return tuple(name for name, able in could.items() if able)

    @property
    def _frame_rate(self) -> float | None:
        """Of its codec, in Hz; `None` for a model that is not made of codes."""
        return getattr(getattr(self.pipeline.model.config, "audio_encoder", None), "frame_rate", None)

    def generate(self, prompts, seeds, length_in_s, **asked):
        """See [`System`]. Asked for a `beginning`, what is returned begins with the codec's version of it.

        Raises:
            ValueError: something asked for that the model does not take, or more than it has positions for.
        """
        model = self.pipeline.model
        refuse_requests(f"{type(model).__name__} ({self.source!r})", self.takes, asked)
        asked = {name: value for name, value in asked.items() if value is not None}
        beginning, melody = asked.pop("beginning", None), asked.pop("melody", None)
        arguments, frame_rate = dict(asked), self._frame_rate
        if frame_rate is not None:
            delay = getattr(model.config.decoder, "num_codebooks", 1) - 1  # MusicGen's interleaving
            arguments["max_new_tokens"] = int(np.ceil(length_in_s * frame_rate)) + delay
        if melody is not None:
            arguments["input_features"] = self._chroma_of(melody, length_in_s)
        begun = 0.0
        if beginning is not None and frame_rate is not None:
            arguments["decoder_input_ids"] = codes = self._codes_of(beginning)
            begun = codes.shape[-1] / frame_rate
            self._check_positions(begun + length_in_s, frame_rate)
        if model.generation_config.do_sample is not False:
            arguments["do_sample"] = True
        audios = []
        devices = [model.device] if model.device.type == "cuda" else []
        for prompt, seed in zip(prompts, seeds, strict=True):
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                made = self.pipeline(prompt, generate_kwargs=arguments)
            audio = np.asarray(made["audio"], dtype=np.float32)
            audio = audio.reshape(-1, audio.shape[-1])
            audios.append(audio[:, : round((begun + length_in_s) * made["sampling_rate"])])
        return audios, int(made["sampling_rate"])

    def _check_positions(self, length_in_s: float, frame_rate: float) -> None:
        most = getattr(self.pipeline.model.config.decoder, "max_position_embeddings", None)
        if most is not None and length_in_s * frame_rate > most:
            raise ValueError(
                f"{self.source!r} has {most} positions, which are {most / frame_rate:.1f} s of audio, what is given "
                f"counted; {length_in_s:.1f} s are more."
            )

    def _codes_of(self, recording: Recording) -> torch.Tensor:
        """What to go on from, (codebooks, frames): of two channels, left and right in turn, as the model interleaves them."""
        model = self.pipeline.model
        codec, config = model.audio_encoder, model.config.decoder
        channels = recording.channels
        if len(channels) != config.audio_channels:
            channels = np.repeat(channels.mean(axis=0, keepdims=True), config.audio_channels, axis=0)
        rate = model.config.audio_encoder.sampling_rate
        with torch.no_grad():
            codes = [
                codec.encode(
                    torch.from_numpy(resample(channel, recording.sampling_rate, rate))[None, None]
                    .to(model.device)
                    .float()
                ).audio_codes[0, 0]
                for channel in channels
            ]
        return torch.stack(codes, dim=1).flatten(0, 1)[: config.num_codebooks]

    def _chroma_of(self, melody: Recording | str | Path, length_in_s: float) -> torch.Tensor:
        """(1, frames, pitch classes): the strongest one of each frame (MusicGen, section 2.3); the first stands for silence."""
        rate, hop = self.chroma["sampling_rate"], self.chroma["hop_length"]
        model = self.pipeline.model
        num_chroma = model.config.num_chroma
        if isinstance(melody, Recording):
            waveform = resample(melody.waveform, melody.sampling_rate, rate)
            waveform = waveform[: math.ceil(length_in_s * rate)]
            strongest = chromagram(waveform, rate, self.chroma["n_fft"], hop).argmax(axis=1)
        else:
            from ...tokenizers.attributes.melody import SILENCE, Melody

            attribute = Melody()
            stream = attribute.default_stream(frame_rate=rate / hop)
            strongest = attribute.from_request(melody, stream, length_in_s)[:, 0]
            strongest = np.where(strongest == SILENCE, 0, strongest)
        chosen = torch.nn.functional.one_hot(torch.from_numpy(strongest), num_chroma)
        return chosen[None].to(model.device, model.dtype)


def load_transformers(
    name: str, path: str, source: str, device: str, dtype: torch.dtype | None = None, revision: str | None = None
) -> TransformersSystem:
    """A text-to-audio model of a folder or the Hub.

    Raises:
        ValueError: it is none.
    """
    from transformers import AutoConfig, AutoModelForTextToWaveform, AutoTokenizer, FeatureExtractionMixin, pipeline
    from transformers.utils import is_torchaudio_available

    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        parts: dict[str, Any] = {"model": path, "revision": revision}
        chroma: dict[str, int] = {}
        if hasattr(config, "num_chroma"):
            stored, _ = FeatureExtractionMixin.get_feature_extractor_dict(path, revision=revision)
            chroma = {key: stored[key] for key in CHROMA if key in stored}
            if not is_torchaudio_available():  # transformers' processor of melodies asks for it; ours does without
                parts = {
                    "model": AutoModelForTextToWaveform.from_pretrained(
                        path, revision=revision, trust_remote_code=False
                    ),
                    "tokenizer": AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False),
                }
        network = pipeline("text-to-audio", **parts, device=device, dtype=dtype or "auto", trust_remote_code=False)
        return TransformersSystem(name, network, source, chroma)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{source!r} is no text-to-audio model of transformers: {str(error).splitlines()[0]}"
        ) from error
