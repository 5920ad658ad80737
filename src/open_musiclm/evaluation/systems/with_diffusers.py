"""Text-to-audio pipelines of diffusers: what they can be asked for is what their call takes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...audio import resample
from ...pipelines.mixtures import Recording
from ..embedders.networks import weights_fingerprint
from .plain import networks_of, plain_values
from .requests import refuse_requests

__all__ = ["DiffusersSystem", "load_diffusers"]

# AudioLDM2 and pipelines of ours, Stable Audio, LongCat and ACE-Step, Stable Audio 3
LENGTH_ARGUMENTS = ("audio_length_in_s", "audio_end_in_s", "audio_duration_s", "audio_duration", "duration")
#: what is asked for → the arguments that pipelines have for it
REQUESTS = {
    "guidance_scale": ("guidance_scale",),
    "negative_prompt": ("negative_prompt",),
    "reference_audio": ("initial_audio_waveforms",),
}


class DiffusersSystem:
    """A text-to-audio pipeline of diffusers (AudioLDM2, Stable Audio, ...)."""

    max_batch_size = 1

    def __init__(self, name: str, pipeline, source: str):
        self.name, self.pipeline, self.source, self.device = name, pipeline, source, str(pipeline.device)
        pipeline.set_progress_bar_config(disable=True)

    def describe(self) -> dict[str, Any]:
        scheduler = getattr(self.pipeline, "scheduler", None)
        return {
            "kind": "diffusers",
            "model": self.source,
            "pipeline": type(self.pipeline).__name__,
            "weights": {name: weights_fingerprint(part) for name, part in networks_of(self.pipeline).items()},
            "scheduler": {type(scheduler).__name__: plain_values(dict(scheduler.config))}
            if scheduler is not None
            else None,
        }

    @property
    def _arguments(self) -> dict[str, str]:
        """What it can be asked for → its call's argument."""
        taken = inspect.signature(self.pipeline.__call__).parameters
        found = {name: next((each for each in known if each in taken), None) for name, known in REQUESTS.items()}
        return {name: argument for name, argument in found.items() if argument is not None}

    @property
    def takes(self) -> tuple[str, ...]:
        """What it can be asked for, by the name of `open-musiclm generate`'s arguments."""
        return tuple(self._arguments)

    def generate(self, prompts, seeds, length_in_s, **asked):
        """See [`System`].

        Raises:
            ValueError: something asked for that the pipeline's call does not take.
        """
        kind = type(self.pipeline).__name__
        refuse_requests(f"{kind} ({self.source!r})", self.takes, asked)
        taken = inspect.signature(self.pipeline.__call__).parameters
        name = next((argument for argument in LENGTH_ARGUMENTS if argument in taken), None)
        if name is None:
            raise ValueError(
                f"{kind} takes none of {', '.join(LENGTH_ARGUMENTS)}; generate with it yourself "
                "and give the folder of audio as the model."
            )
        rate = self._sampling_rate()
        arguments = self._arguments
        given = {arguments[key]: value for key, value in asked.items() if value is not None}
        for argument, value in list(given.items()):
            if isinstance(value, Recording):
                channels = [resample(channel, value.sampling_rate, rate) for channel in value.channels]
                given[argument] = torch.from_numpy(np.stack(channels))[None].float().to(self.pipeline.device)
                given["initial_audio_sampling_rate"] = rate
        audios = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            generator = torch.Generator("cpu").manual_seed(seed)
            made = self.pipeline(prompt, generator=generator, **{name: length_in_s}, **given).audios[0]
            audio = np.asarray(torch.as_tensor(made).float().cpu())
            audios.append(audio.reshape(-1, audio.shape[-1])[:, : round(length_in_s * rate)])
        return audios, rate

    def _sampling_rate(self) -> int:
        for part in ("vocoder", "vae", "codec"):
            config = getattr(getattr(self.pipeline, part, None), "config", None)
            rate = getattr(config, "sampling_rate", None) or getattr(config, "sample_rate", None)
            if rate:
                return int(rate)
        raise ValueError(f"the sampling rate of {type(self.pipeline).__name__} is in neither its vae nor its vocoder.")


def load_diffusers(
    name: str, path: str, source: str, device: str, dtype: torch.dtype | None = None, revision: str | None = None
) -> DiffusersSystem:
    """A pipeline of a folder or the Hub; no code of its repository is run."""
    from diffusers import DiffusionPipeline

    from ...hub.reading import refuse_code

    local = Path(path).is_dir()
    folder = Path(path if local else DiffusionPipeline.download(path, revision=revision, trust_remote_code=False))
    refuse_code(folder)
    pipeline = DiffusionPipeline.from_pretrained(
        folder, **({} if dtype is None else {"dtype": dtype}), trust_remote_code=False
    )
    return DiffusersSystem(name, pipeline.to(device), source)
