"""What is measured: a pipeline of ours, a text-to-audio pipeline of transformers or diffusers, a folder, or noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ...audio.reading import AUDIO_ENDINGS
from ...data.discovery import has_audio
from ..embedders.networks import weights_fingerprint
from .plain import networks_of, plain_values
from .with_diffusers import DiffusersSystem, load_diffusers
from .with_transformers import TransformersSystem, load_transformers

__all__ = [
    "DiffusersSystem",
    "FolderSystem",
    "MusicLMSystem",
    "NoiseSystem",
    "System",
    "TransformersSystem",
    "has_own_clap",
    "is_pipeline_of_ours",
    "kind_of_source",
    "kind_of_system",
    "load_other_system",
    "load_system",
    "system_name",
]

NOISE_RMS = 0.1
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
        networks = networks_of(self.pipeline)
        generation = {name: getattr(network, "generation_config", None) for name, network in networks.items()}
        return {
            "kind": "open_musiclm",
            "model": self.source,
            "revision": self.revision,
            "weights": {name: weights_fingerprint(network) for name, network in networks.items()},
            "generation": {name: plain_values(config.to_diff_dict()) for name, config in generation.items() if config},
        }

    def generate(self, prompts, seeds, length_in_s):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        audios = self.pipeline(prompts, audio_length_in_s=length_in_s, generator=generators).audios
        return list(np.asarray(audios, dtype=np.float32)), self.pipeline.sampling_rate


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
        return (load_transformers if kind == "transformers" else _load_pipeline)(name, source, source, device)
    except Exception as error:  # whatever readers of files raise: a cut file, a missing part, an unknown class
        raise _not_loaded(source, error) from error


def kind_of_system(spec: str) -> str:
    """What a `--model` argument names, without loading it: `noise`, `mini`, `pipeline`, `transformers`, `folder`, `hub`.

    Raises:
        ValueError: If it is none of these.
    """
    return kind_of_source(_split_name(spec)[1])


def kind_of_source(source: str) -> str:
    """[`kind_of_system`] of a `--model` argument without a name before it."""
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
    return _names_our_pipeline(Path(_split_name(spec)[1]) / "model_index.json")


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


def is_pipeline_of_ours(source: str, revision: str | None = None) -> bool:
    """Whether a folder or Hub id is a pipeline of this package, or says nothing else of itself (reading it then tells).

    Of a repository only the index is read, and kept where the rest will be.
    """
    kind = kind_of_source(source)
    if kind == "transformers":
        return False
    if kind == "pipeline":
        return _names_our_pipeline(Path(source) / "model_index.json")
    if kind != "hub":
        return True
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return _names_our_pipeline(Path(hf_hub_download(source, "model_index.json", revision=revision)))
    except LocalEntryNotFoundError:  # no network
        return not isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str)
    except EntryNotFoundError:
        return False
    except (HfHubHTTPError, HFValidationError, OSError):
        return True


def load_other_system(
    source: str, device: str = "cpu", dtype: torch.dtype | None = None, revision: str | None = None
) -> TransformersSystem | DiffusersSystem:
    """A model of transformers or a pipeline of diffusers, of a folder or the Hub, that [`is_pipeline_of_ours`] denies.

    Raises:
        ValueError: it cannot be loaded, or makes no audio from text.
    """
    try:
        local = Path(source) / "model_index.json"
        if kind_of_source(source) == "transformers" or (not local.is_file() and not _has_index(source, revision)):
            return load_transformers(source, source, source, device, dtype, revision)
        return load_diffusers(source, source, source, device, dtype, revision)
    except Exception as error:  # whatever readers of files raise
        raise _not_loaded(source, error) from error


def _names_our_pipeline(index: Path) -> bool:
    return OURS in index.read_text(encoding="utf-8")


def _has_index(source: str, revision: str | None) -> bool:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        hf_hub_download(source, "model_index.json", revision=revision)
    except EntryNotFoundError:
        return False
    return True


def _not_loaded(source: str, error: Exception) -> ValueError:
    why = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"the model in {source!r} could not be loaded: {why[:400]}")


def _load_from_hub(name: str, source: str, device: str) -> System:
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        if not _has_index(source, None):
            return load_transformers(name, source, source, device)
        return _load_pipeline(name, source, source, device)
    except (RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"{source!r} is no folder here and could not be had from the Hub: {str(error).splitlines()[0]}"
        ) from error


def _load_pipeline(name: str, path: str, source: str, device: str) -> System:
    from diffusers import DiffusionPipeline

    class_name = DiffusionPipeline.load_config(path)["_class_name"]
    if OURS not in (class_name if isinstance(class_name, list) else [class_name]):
        return load_diffusers(name, path, source, device)
    from ...pipelines.musiclm import MusicLMPipeline

    pipeline = MusicLMPipeline.from_pretrained(path)
    return MusicLMSystem(name, pipeline.to(device), source, getattr(pipeline.clap.config, "_commit_hash", None))
