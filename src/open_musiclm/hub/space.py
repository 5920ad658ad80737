"""What makes a published pipeline a page and a service: a Space, and an Inference Endpoints handler.

A Space is a repository of its own kind; its `app.py` starts the page of `open-musiclm app` on the model. A handler is one
more file in the model's repository, which Inference Endpoints import and call. Both import this package and run no other
code; the model is read as everywhere (reading.py).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from string import Template

from huggingface_hub import CommitInfo, HfApi, SpaceCard, SpaceCardData

from ..version import __version__

HANDLER_FILE = "handler.py"
REQUIREMENTS_FILE = "requirements.txt"
#: where Spaces find the page
SPACE_PORT = 7860

_SPACE_APP = Template('''"""The page of open-musiclm on $model. Written by `open_musiclm.hub.space`."""

import os

from open_musiclm.cli import main

arguments = ["app", "--model", os.environ.get("MODEL", "$model"), "--host", "0.0.0.0"]
arguments += ["--port", os.environ.get("GRADIO_SERVER_PORT", "$port"), "--max-duration", "60"]

if __name__ == "__main__":
    raise SystemExit(main(arguments))
''')
_SPACE_TEXT = Template("""Text to music on a page: create, tell stories, continue and edit recordings, make loops, compare. The model is
[$model](https://huggingface.co/$model); the page is that of `open-musiclm app --model $model`, which runs on your own
machine too.
""")
_HANDLER = '''"""Music for Inference Endpoints (hf.co/docs/inference-endpoints). Written by `open_musiclm.hub.space`.

    {"inputs": "a calm piano melody", "parameters": {"duration": 10, "seed": 0}} → {"audio": <WAV in base64>, …}

`parameters` are the fields of `POST /v1/audio/speech` (docs/serving.md); with `way` and `audio`, those of
`POST /v1/audio/edits`.
"""

from open_musiclm.serving.endpoint import EndpointHandler

__all__ = ["EndpointHandler"]
'''


def requirements(package: str | None = None) -> str:
    """What a Space or an endpoint installs: this version with the extra `app`, or another `package`."""
    return (package or f"open-musiclm[app]=={__version__}") + "\n"


def space_files(model: str, title: str | None = None, package: str | None = None) -> dict[str, str]:
    """The files of a Space that shows a model, by name.

    Args:
        model: Hub id of the pipeline.
        title: of the page; by default the model's name.
        package: what to install in place of this version, as pip takes it (a Git address, say).
    """
    data = SpaceCardData(
        title=title or model.rpartition("/")[2],
        emoji="🎵",
        colorFrom="green",
        colorTo="blue",
        sdk="gradio",
        sdk_version=gradio_version(),
        app_file="app.py",
        models=[model],
        tags=["music", "text-to-music"],
        pinned=False,
    )
    card = SpaceCard(f"---\n{data.to_yaml()}\n---\n\n{_SPACE_TEXT.substitute(model=model)}")
    return {
        "README.md": str(card),
        "app.py": _SPACE_APP.substitute(model=model, port=SPACE_PORT),
        REQUIREMENTS_FILE: requirements(package),
    }


def gradio_version() -> str:
    """Of this machine, which the page was tried with; a Space is given the same."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gradio")
    except PackageNotFoundError:
        return "6.31.0"


def write_files(folder: str | Path, files: dict[str, str]) -> None:
    """Texts by name into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def push_space(
    model: str,
    space: str | None = None,
    *,
    title: str | None = None,
    package: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
) -> CommitInfo:
    """Make a Space that shows a published pipeline, or bring it up to date.

    Args:
        model: Hub id of the pipeline.
        space: Hub id of the Space; by default the model's.
        title, package: as [`space_files`].
        private, token: as `HfApi.create_repo`.
    """
    api = HfApi(token=token)
    space = api.create_repo(
        space or model, repo_type="space", space_sdk="gradio", private=private, exist_ok=True
    ).repo_id
    with tempfile.TemporaryDirectory() as folder:
        write_files(folder, space_files(model, title, package))
        return api.upload_folder(
            repo_id=space, repo_type="space", folder_path=folder, commit_message=f"The page of {model}"
        )


def handler_files(package: str | None = None) -> dict[str, str]:
    """What a model's repository needs for Inference Endpoints, by name."""
    return {HANDLER_FILE: _HANDLER, REQUIREMENTS_FILE: requirements(package)}
