"""What commands share: quiet libraries, the device, the dtype, and a pipeline by path or Hub id."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="PATH_OR_HUB_ID", help="a pipeline (default: the small one in the box)")
    _add_loading_arguments(parser)


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """For a command that takes several."""
    parser.add_argument(
        "--model",
        action="append",
        metavar="PATH_OR_HUB_ID",
        help="a pipeline (default: the small one in the box); once for each of several",
    )
    _add_loading_arguments(parser)


def _add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, … (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)")


def quiet_libraries() -> None:
    """No progress bars and warnings of the libraries on a command's screen; the command has its own."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def pick_device(name: str) -> str:
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    name = name.lower()
    if name == "meta":
        raise ValueError("The device 'meta' holds shapes and no numbers: nothing can be computed on it.")
    kind = name.split(":")[0]
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            "The device 'mps' is the GPU of a Mac with Apple silicon; this machine has none that torch can use."
        )
    if kind == "cuda" and not torch.cuda.is_available():
        built = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no GPU"
        raise ValueError(f"The device {name!r} cannot be used here: {built}.")
    try:
        torch.zeros(1, device=name).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"The device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return name


def model_path(model: str | None, revision: str | None = None) -> str:
    """A path or Hub id as given; for `mini`, or nothing, the folder of the pipeline in the box.

    A folder of that name that holds no model is not meant.

    Raises:
        ValueError: a revision of something that is not on the Hub.
    """
    if model is None or (model == "mini" and not _holds_model(Path(model))):
        from ..hub.mini import mini_checkpoint

        model = mini_checkpoint()
    if revision is not None and os.path.exists(model):
        raise ValueError(f"--revision {revision} is for a Hub id; {model!r} is a folder, which has no revisions.")
    return model


def _holds_model(folder: Path) -> bool:
    return (folder / "model_index.json").is_file() or (folder / "config.json").is_file()


def load_pipeline(model: str | None, device: str = "cpu", dtype: str = "float32", revision: str | None = None):
    """A pipeline from a folder or the Hub, by default the one in the box, on its device."""
    import torch

    from ..pipelines.musiclm import MusicLMPipeline

    model = model_path(model, revision)
    folder = Path(model)
    if os.path.exists(folder) and not (folder / "model_index.json").is_file():
        raise ValueError(f"{model!r} is no pipeline: it holds no model_index.json.")
    pipe = MusicLMPipeline.from_pretrained(model, revision=revision, dtype=getattr(torch, dtype))
    return pipe.to(pick_device(device))
