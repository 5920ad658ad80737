"""What is measured: a pipeline of ours, a text-to-audio pipeline of transformers or diffusers, a folder, or noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ...audio.reading import AUDIO_ENDINGS
from ...data.discovery import has_audio
from ..embedders.networks import weights_fingerprint

__all__ = [
    "DiffusersSystem",
    "FolderSystem",
    "MusicLMSystem",
    "NoiseSystem",
    "System",
    "TransformersSystem",
    "has_own_clap",
    "kind_of_system",
    "load_system",
    "system_name",
]

NOISE_RMS = 0.1
# AudioLDM2 and pipelines of ours, Stable Audio, LongCat, Stable Audio 3
LENGTH_ARGUMENTS = ("audio_length_in_s", "audio_end_in_s", "audio_duration_s", "duration")
OURS = "MusicLMPipeline"


class System(Protocol):
    """Something that makes audio from prompts.

    Attributes:
        name: Short name in the report and of its folder.
        max_batch_size: Most prompts that it takes at once without the audio of one depending on the others.
        device: Where it computes.
    """

    name: str
    max_batch_size: int
    device: str

    def describe(self) -> dict[str, Any]:
        """What it is, for the report. Audio that was made under another description is not reused, `model` apart, which
        may be a folder that moved."""
        ...

    def generate(self, prompts: list[str], seeds: list[int], length_in_s: float) -> tuple[list[np.ndarray], int]:
        """One (channels, samples) float32 array a prompt, and the sampling rate."""
        ...


class MusicLMSystem:
    """A :class:`~open_musiclm.MusicLMPipeline`; each prompt has a generator of its own."""

    def __init__(self, name: str, pipeline, source: str, revision: str | None = None):
        self.name, self.pipeline, self.source, self.revision = name, pipeline, source, revision
        self.max_batch_size = 64
        self.device = str(pipeline.device)
        pipeline.set_progress_bar_config(disable=True)

    def describe(self) -> dict[str, Any]:
        networks = _networks(self.pipeline)
        generation = {name: getattr(network, "generation_config", None) for name, network in networks.items()}
        return {
            "kind": "open_musiclm",
            "model": self.source,
            "revision": self.revision,
            "weights": {name: weights_fingerprint(network) for name, network in networks.items()},
            "generation": {name: _plain(config.to_diff_dict()) for name, config in generation.items() if config},
        }

    def generate(self, prompts, seeds, length_in_s):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        audios = self.pipeline(prompts, audio_length_in_s=length_in_s, generator=generators).audios
        return list(np.asarray(audios, dtype=np.float32)), self.pipeline.sampling_rate


class TransformersSystem:
    """A text-to-audio model of transformers (MusicGen, ...), through its own `text-to-audio` pipeline.

    Its `generate` draws from torch's global generator and takes no other: the global state is put aside, seeded for the
    call, and put back.
    """

    max_batch_size = 1

    def __init__(self, name: str, pipeline, source: str):
        self.name, self.pipeline, self.source, self.device = name, pipeline, source, str(pipeline.device)

    def describe(self) -> dict[str, Any]:
        config = self.pipeline.model.config
        return {
            "kind": "transformers",
            "model": self.source,
            "model_type": config.model_type,
            "revision": getattr(config, "_commit_hash", None),
            "weights": weights_fingerprint(self.pipeline.model),
            "generation": _plain(self.pipeline.model.generation_config.to_diff_dict()),
        }

    def generate(self, prompts, seeds, length_in_s):
        model = self.pipeline.model
        frame_rate = getattr(getattr(model.config, "audio_encoder", None), "frame_rate", None)
        delay = getattr(getattr(model.config, "decoder", None), "num_codebooks", 1) - 1  # MusicGen's interleaving
        arguments = {"max_new_tokens": int(np.ceil(length_in_s * frame_rate)) + delay} if frame_rate else {}
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
            audios.append(audio[:, : round(length_in_s * made["sampling_rate"])])
        return audios, int(made["sampling_rate"])


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
            "weights": {name: weights_fingerprint(part) for name, part in _networks(self.pipeline).items()},
            "scheduler": {type(scheduler).__name__: _plain(dict(scheduler.config))} if scheduler is not None else None,
        }

    def generate(self, prompts, seeds, length_in_s):
        import inspect

        taken = inspect.signature(self.pipeline.__call__).parameters
        name = next((argument for argument in LENGTH_ARGUMENTS if argument in taken), None)
        if name is None:
            raise ValueError(
                f"{type(self.pipeline).__name__} takes none of {', '.join(LENGTH_ARGUMENTS)}; generate with it yourself "
                "and give the folder of audio as the model."
            )
        rate = self._sampling_rate()
        audios = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            generator = torch.Generator("cpu").manual_seed(seed)
            made = np.asarray(
                torch.as_tensor(self.pipeline(prompt, generator=generator, **{name: length_in_s}).audios[0])
                .float()
                .cpu()
            )
            audios.append(made.reshape(-1, made.shape[-1])[:, : round(length_in_s * rate)])
        return audios, rate

    def _sampling_rate(self) -> int:
        for part in ("vocoder", "vae", "codec"):
            config = getattr(getattr(self.pipeline, part, None), "config", None)
            rate = getattr(config, "sampling_rate", None) or getattr(config, "sample_rate", None)
            if rate:
                return int(rate)
        raise ValueError(f"the sampling rate of {type(self.pipeline).__name__} is in neither its vae nor its vocoder.")


class FolderSystem:
    """Audio that is there already; a file belongs to the prompt whose id is its stem."""

    max_batch_size = 1
    device = "cpu"

    def __init__(self, name: str, folder: str):
        self.name, self.folder = name, Path(folder)

    def describe(self) -> dict[str, Any]:
        return {"kind": "folder", "model": self.folder.name}

    def generate(self, prompts, seeds, length_in_s):
        raise ValueError(f"{self.name} is a folder of audio; it generates nothing.")


class NoiseSystem:
    """White noise at −20 dB: what every model must be ahead of.

    Always at one rate, above that of any network here, so that it stays the same noise whatever is measured beside it.
    """

    max_batch_size = 1
    device = "cpu"

    def __init__(self, name: str = "noise", sampling_rate: int = 48000):
        self.name, self.sampling_rate = name, sampling_rate

    def describe(self) -> dict[str, Any]:
        return {"kind": "noise", "model": "white noise", "rms": NOISE_RMS, "sampling_rate": self.sampling_rate}

    def generate(self, prompts, seeds, length_in_s):
        num_samples = round(length_in_s * self.sampling_rate)
        noise = [np.random.default_rng(seed).standard_normal((1, num_samples)) * NOISE_RMS for seed in seeds]
        return [row.astype(np.float32) for row in noise], self.sampling_rate


def load_system(spec: str, device: str = "cpu") -> System:
    """Loads what `--model` names.

    Args:
        spec: `[NAME=]WHAT`, with WHAT a Hub id or folder of a pipeline (ours, diffusers) or model (transformers), a
            folder of audio, `mini` for the bundled pipeline, or `noise`.

    Raises:
        ValueError: If it is none of these.
    """
    name, source = _split_name(spec)
    kind = kind_of_system(spec)
    if kind == "noise":
        return NoiseSystem(name)
    if kind == "mini":
        from ...hub.mini import mini_checkpoint

        return _load_pipeline(name, mini_checkpoint(), source, device)
    if kind == "folder":
        return FolderSystem(name, source)
    if kind == "hub":
        return _load_from_hub(name, source, device)
    try:
        return (_load_transformers if kind == "transformers" else _load_pipeline)(name, source, source, device)
    except (
        Exception
    ) as error:  # whatever readers of files raise: a cut file, a missing part, a class that is not there
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the model in {source!r} could not be loaded: {why[:400]}") from error


def kind_of_system(spec: str) -> str:
    """What a `--model` argument names, without loading it: `noise`, `mini`, `pipeline`, `transformers`, `folder`, `hub`.

    Raises:
        ValueError: If it is none of these.
    """
    source = _split_name(spec)[1]
    if source in ("noise", "mini"):
        return source
    folder = Path(source)
    if folder.is_dir():
        if (folder / "model_index.json").is_file():
            return "pipeline"
        if (folder / "config.json").is_file():
            return "transformers"
        if has_audio(folder):
            return "folder"
        raise ValueError(
            f"{source!r} holds no model_index.json, no config.json and no audio; it is no system to measure."
        )
    if folder.suffix in AUDIO_ENDINGS or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ValueError(f"there is no folder {source!r}.")
    return "hub"


def has_own_clap(spec: str) -> bool:
    """Whether a `--model` argument is a pipeline of this package in a folder, or the one in the box."""
    kind = kind_of_system(spec)
    if kind != "pipeline":
        return kind == "mini"
    return OURS in (Path(_split_name(spec)[1]) / "model_index.json").read_text(encoding="utf-8")


def system_name(spec: str) -> str:
    """Name of the system of a `--model` argument."""
    return _split_name(spec)[0]


def _split_name(spec: str) -> tuple[str, str]:
    name, separator, source = spec.partition("=")
    if not separator:
        name, source = Path(spec.rstrip("/")).name, spec
    if not name or not source or not all(c.isalnum() or c in "._- " for c in name) or name.startswith("."):
        raise ValueError(
            f"{spec!r} is no system; write NAME=WHAT, with letters, digits, '-', '_' and '.' in the name."
        )
    return name, source


def _load_from_hub(name: str, source: str, device: str) -> System:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

    try:
        try:
            hf_hub_download(source, "model_index.json")
        except EntryNotFoundError:
            return _load_transformers(name, source, source, device)
        return _load_pipeline(name, source, source, device)
    except (RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"{source!r} is no folder here and could not be had from the Hub: {str(error).splitlines()[0]}"
        ) from error


def _load_pipeline(name: str, path: str, source: str, device: str) -> System:
    from diffusers import DiffusionPipeline

    from ...hub.reading import refuse_code

    config = DiffusionPipeline.load_config(path)
    class_name = config["_class_name"]
    if OURS in (class_name if isinstance(class_name, list) else [class_name]):
        from ...pipelines.musiclm import MusicLMPipeline

        pipeline = MusicLMPipeline.from_pretrained(path)
        return MusicLMSystem(name, pipeline.to(device), source, getattr(pipeline.clap.config, "_commit_hash", None))
    folder = Path(path if Path(path).is_dir() else DiffusionPipeline.download(path, trust_remote_code=False))
    refuse_code(folder)
    return DiffusersSystem(name, DiffusionPipeline.from_pretrained(folder, trust_remote_code=False).to(device), source)


def _load_transformers(name: str, path: str, source: str, device: str) -> System:
    from transformers import pipeline

    try:
        network = pipeline("text-to-audio", model=path, device=device, trust_remote_code=False)
        return TransformersSystem(name, network, source)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{source!r} is no text-to-audio model of transformers: {str(error).splitlines()[0]}"
        ) from error


def _networks(pipeline) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
