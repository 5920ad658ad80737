"""The small demonstration pipeline that ships inside the package."""

from __future__ import annotations

from pathlib import Path


def mini_checkpoint() -> str:
    """Folder of the bundled pipeline, for `MusicLMPipeline.from_pretrained`.

    It is trained from nothing on synthesized music (see `examples/mini/`): a demonstration of the whole path, not a
    model of real music.

    Raises:
        FileNotFoundError: this installation came without it.
    """
    folder = Path(__file__).parents[1] / "checkpoints" / "mini"
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"The bundled pipeline is not in this installation ({folder}). Reinstall open-musiclm, or make it again with "
            "`python examples/mini/train_mini.py`."
        )
    return str(folder)
