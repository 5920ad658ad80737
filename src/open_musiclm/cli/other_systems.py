"""`generate` and `edit … continue` with systems of others: whatever text-to-audio model `evaluate` can load."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from .loading import model_path, pick_device
from .requests import ATTRIBUTES, PLAIN, understand_prompts

#: what of `generate`'s arguments asks for something that not every system can do
REQUESTS = (
    *PLAIN, *ATTRIBUTES, "story", "structure_from", "keep", "from_tokens", "save_tokens", "num_candidates", "fast",
    "temperature",
    "unconditional",
)  # fmt: skip
#: of a recording, how much is gone on from: what AudioCraft's MusicGen keeps of a window of 30 s (stride 18 s)
CONTEXT_IN_S = 12.0


def is_other_system(model: str | None, revision: str | None) -> bool:
    """Whether `--model` names something other than a pipeline of this package."""
    from ..evaluation.systems.system import is_pipeline_of_ours

    source = model_path(model, revision)
    folder = Path(source)
    if folder.exists() and not any((folder / name).is_file() for name in ("model_index.json", "config.json")):
        return False  # it is no model at all, which reading it says
    return not is_pipeline_of_ours(source, revision)


def generate_with_system(args: argparse.Namespace, paths: list[Path]) -> int:
    """One file after another, each from a seed of its own.

    Raises:
        ValueError: something asked for that the system does not take; one line that names it.
    """
    from ..evaluation.systems.requests import refuse_requests
    from ..pipelines.mixtures import Mixture
    from ..pipelines.story import Story
    from .generate import describe, keep

    prompts = understand_prompts(args)
    asked = {name: getattr(args, name) for name in REQUESTS}
    asked["story"] = asked["story"] or any(isinstance(prompt, Story) for prompt in prompts)
    asked["mixture"] = any(isinstance(prompt, Mixture) for prompt in prompts)
    system = _load(args)
    refuse_requests(repr(args.model), system.takes, asked)
    if not prompts:
        raise ValueError(f"{args.model!r} needs a prompt.")
    asked = {name: _as_given(name, value) for name, value in asked.items() if name in system.takes}
    seed, started, elsewhere = _seed(args), time.perf_counter(), 0
    for index, path in enumerate(paths):
        own = (seed + index) % 2**63
        prompt = prompts[index // args.num_samples]
        (audio,), rate = system.generate([prompt], [own], args.duration, **asked)
        kept = keep(path, audio, rate, describe(args, prompt, own), args.overwrite)
        elsewhere += kept != path
        print(f"{kept}  ({audio.shape[-1] / rate:g} s, seed {own})", flush=True)
    elapsed = time.perf_counter() - started
    print(f"made {len(paths) * args.duration:g} s of audio in {elapsed:.1f} s ({system.device})")
    return 1 if elsewhere else 0


def continue_with_system(args: argparse.Namespace, recording: Any, paths: list[Path]) -> int:
    """`edit FILE continue`: the recording's samples stay as they are, and what the system makes of its end comes behind.

    Raises:
        ValueError: another way of editing, or a system that goes on from no recording.
    """
    import numpy as np

    from ..evaluation.systems.requests import refuse_requests
    from ..pipelines.editing import put_behind
    from .edit import keep_edited

    system = _load(args)
    if args.way != "continue":
        raise ValueError(
            f"{args.model!r} cannot {args.way} a recording; pipelines of this package can, and what it takes is "
            f"{', '.join(system.takes) or 'a prompt'}."
        )
    asked = {"guidance_scale": args.guidance_scale}
    refuse_requests(repr(args.model), system.takes, {**asked, "beginning": recording})
    if not args.prompt:
        raise ValueError(f"{args.model!r} needs a --prompt to go on from a recording.")
    rate, stop = recording.sampling_rate, recording.channels.shape[1]
    beginning = recording.part(max(stop - round(CONTEXT_IN_S * rate), 0), stop)
    length, seed = args.duration or 10.0, _seed(args)
    seeds = [(seed + variant) % 2**63 for variant in range(args.num_samples)]
    made, made_rate = system.generate([args.prompt] * args.num_samples, seeds, length, beginning=beginning, **asked)
    audios = put_behind(recording, np.stack(made), made_rate, beginning.length_in_s, length).audios
    return keep_edited(args, paths, audios, rate, seed)


def _load(args: argparse.Namespace) -> Any:
    import torch

    from ..evaluation.systems.system import load_other_system

    if getattr(args, "threads", None) is not None:
        torch.set_num_threads(args.threads)
    return load_other_system(args.model, pick_device(args.device), getattr(torch, args.dtype), args.revision)


def _seed(args: argparse.Namespace) -> int:
    import torch

    return args.seed if args.seed is not None else torch.Generator().seed() % 2**31


def _as_given(name: str, value: Any) -> Any:
    """What a system is handed: recordings read, MIDI files and numbers as they are."""
    from ..pipelines.mixtures import Recording

    is_file = name in ("melody", "reference_audio") and value is not None
    return Recording.read(value) if is_file and Path(value).suffix.lower() not in (".mid", ".midi") else value
