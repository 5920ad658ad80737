"""What publishing writes, and how what is published loads again.

A published pipeline is a diffusers repository:

    model_index.json            ["open_musiclm", class] for each part of ours; `_class_name`: ["pipeline", "MusicLMPipeline"]
    pipeline.py                 for plain `DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)`: imports this package
    <part>/open_musiclm.py      because diffusers wants a file for a library it does not know before it downloads; never run
    README.md                   the model card

`MusicLMPipeline.from_pretrained(repo)` needs no trust: it never runs code of the repository.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from diffusers.pipelines import pipeline_loading_utils
from diffusers.pipelines.pipeline_utils import DiffusionPipeline  # where type checkers find it whole
from huggingface_hub import CommitInfo
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import PreTrainedModel

from . import components, doors
from .files import read_json_table
from .model_card import card_of_components
from .publishing import CARD_FILE, upload
from .space import handler_files, push_space, write_files

LIBRARY = components.LIBRARY
PIPELINE_FILE = "pipeline.py"

# Components of this package are written into model_index.json as ["open_musiclm", class], wherever the class lives.
pipeline_loading_utils.LOADABLE_CLASSES[LIBRARY] = {"PreTrainedModel": ["save_pretrained", "from_pretrained"]}

_PIPELINE_SOURCE = '''"""Lets `DiffusionPipeline.from_pretrained(…, trust_remote_code=True)` find the installed package (pip install open-musiclm)."""

from open_musiclm import MusicLMPipeline

__all__ = ["MusicLMPipeline"]
'''
_COMPONENT_SOURCE = '''"""Names the library of this component for diffusers (pip install open-musiclm); there is no code here."""

if __name__ in ("__main__", "open_musiclm"):
    raise SystemExit("Python runs in the folder of a model and found this file in place of the package: use another folder.")

import open_musiclm


def __getattr__(name):
    return getattr(open_musiclm, name)
'''


def write_loader_files(folder: str | Path, own_components: Iterable[str]) -> None:
    """Writes what plain diffusers needs beside `model_index.json`, and the pipeline's class into that file.

    Args:
        folder: A saved pipeline.
        own_components: Names of the components whose classes are this package's.
    """
    folder = Path(folder)
    index_file = folder / "model_index.json"
    index = json.loads(index_file.read_text(encoding="utf-8"))
    index_file.write_text(loader_index(index), encoding="utf-8")
    write_code_files(folder, own_components)


def loader_index(index: dict[str, Any]) -> str:
    """The content of a `model_index.json` with the pipeline's class in it, and without slots that hold nothing."""
    index = {name: value for name, value in index.items() if value != [None, None]}
    index["_class_name"] = [Path(PIPELINE_FILE).stem, "MusicLMPipeline"]
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def write_code_files(folder: Path, own_components: Iterable[str]) -> None:
    """The files beside `model_index.json` and the components of this package that point plain diffusers to it."""
    (folder / PIPELINE_FILE).write_text(_PIPELINE_SOURCE, encoding="utf-8")
    for component in own_components:
        (folder / component / f"{LIBRARY}.py").write_text(_COMPONENT_SOURCE, encoding="utf-8")


class _Packed:
    """A model as its class, config and weights: convolutions with normed weights cannot be pickled as they are."""

    def __init__(self, model: PreTrainedModel):
        self.kind, self.config, self.weights = type(model), model.config, model.state_dict()
        self.generation_config: Any = getattr(model, "generation_config", None)

    @classmethod
    def of(cls, part: Any) -> Any:
        return cls(part) if isinstance(part, PreTrainedModel) else part

    def unpacked(self) -> PreTrainedModel:
        model = self.kind(self.config)
        model.load_state_dict(self.weights, assign=True)
        model.generation_config = self.generation_config
        return model.to(next(iter(self.weights.values())).device).eval()


def _unpickled(kind: type, parts: dict[str, Any]) -> Any:
    return kind(**{name: part.unpacked() if isinstance(part, _Packed) else part for name, part in parts.items()})


class PublishedPipeline(DiffusionPipeline):
    """`MusicLMPipeline`'s saving, publishing and loading."""

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ) -> None:
        """Writes every component, `model_index.json`, the loader files and (where there is none) a model card.

        Args:
            save_directory: The folder.
            safe_serialization, variant, max_shard_size: As `DiffusionPipeline.save_pretrained`.
            push_to_hub: Upload it too, as `repo_id` (by default named like the folder).
            kwargs: With `push_to_hub`, arguments of [`upload`].
        """
        save_directory = Path(save_directory)
        repo_id = kwargs.pop("repo_id", save_directory.name)
        save_options: dict[str, Any] = {
            "safe_serialization": safe_serialization,
            "variant": variant,
            "max_shard_size": max_shard_size,
        }
        super().save_pretrained(save_directory, **save_options)
        write_loader_files(save_directory, [name for name in self.components if self.config[name][0] == LIBRARY])
        card_file = save_directory / CARD_FILE
        if not card_file.exists():
            card_of_components(self.components, repo_id).save(card_file)
        if push_to_hub:
            self.push_to_hub(repo_id, **save_options, **kwargs)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        **upload_kwargs: Any,
    ) -> CommitInfo:
        """Uploads the whole pipeline to the Hub; see [`upload`] for the other arguments (`license`, …).

        Args:
            upload_kwargs: also `endpoint=True`, which writes a `handler.py` for Inference Endpoints beside it, `space=True` or
                the Hub id of a Space, which is made of it (space.py), and `package`, what both install in place of this
                version.
        """
        space, package = upload_kwargs.pop("space", None), upload_kwargs.pop("package", None)
        extra_files = handler_files(package) if upload_kwargs.pop("endpoint", False) else {}
        upload_kwargs |= {"commit_message": commit_message, "private": private, "token": token, "create_pr": create_pr}
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(scratch, safe_serialization, variant, max_shard_size)
            write_files(scratch, extra_files)
            done = upload(Path(scratch), repo_id, partial(card_of_components, self.components), **upload_kwargs)
        if space:
            name = space if isinstance(space, str) else None
            push_space(done.repo_url.repo_id, name, package=package, private=private, token=token)
        return done

    def __reduce__(self):
        return _unpickled, (type(self), {name: _Packed.of(part) for name, part in self.components.items()})

    @classmethod
    def download(cls, pretrained_model_name, **kwargs):
        """Downloads a pipeline's files; a repository that can't be read is said to be so."""
        try:
            return super().download(pretrained_model_name, **kwargs)
        except OSError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            if isinstance(cause, GatedRepoError | RepositoryNotFoundError):
                raise OSError(
                    f"{pretrained_model_name} is not on the Hub, or is private or gated and this token has no access to "
                    "it. Check the name, log in with `hf auth login`, or pass `token=…`."
                ) from cause
            if isinstance(cause, RevisionNotFoundError):
                raise OSError(f"{pretrained_model_name} has no revision {kwargs.get('revision')!r}.") from cause
            raise

    # The two below decide what a model_index.json means to this class, instead of what it says.

    @classmethod
    def _dict_from_json_file(cls, json_file):
        """The class to load is this one: a `_class_name` that points to the repository's own code is not followed."""
        config = read_json_table(json_file)
        if "_class_name" not in config:
            raise ValueError(f"{json_file} names no `_class_name`: it is not the index of a pipeline.")
        config["_class_name"] = cls.__name__
        return config

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """Components come from classes that are installed and belong in their slots, through the door of `reading.py`."""
        slots = {name for names in cls._get_signature_keys(cls)[:1] for name in names} | set(cls._optional_components)
        found = {}
        for name, value in config_dict.items():
            if name in slots:
                named = components.named_class(config_dict, name)
                value = [None, None] if named is None else [doors.__name__, named.__name__]
            found[name] = value
        return super().extract_init_dict(found, **kwargs)
