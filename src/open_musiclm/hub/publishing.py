"""Uploading to the Hub: one call, one commit, a model card with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard

from .model_card import card_of_components
from .reading import ReadWhole

CARD_FILE = "README.md"


def upload(
    folder: Path,
    repo_id: str,
    card: Callable[..., ModelCard],
    *,
    license: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    ignore_patterns: Sequence[str] = (),
) -> CommitInfo:
    """Creates a repository if need be and uploads a folder to it in one commit.

    Files that the Hub already has are not sent again, so after an interrupted upload the same call goes on.

    Args:
        folder: What to upload.
        repo_id: The repository; without a namespace, one of the token's owner.
        card: Repository id (and `license=`) → its model card, for a repository without a README.md; one that is there is
            kept.
        license: What the card says, as the Hub names licences (`"apache-2.0"`), also in a card that is there.
        commit_message, commit_description, private, token, revision, create_pr: As `HfApi.create_repo` and
            `HfApi.upload_folder`. A `revision` that does not exist becomes a branch.
        ignore_patterns: Files of the folder that stay here.
    """
    said = {} if license is None else {"license": license}
    card(repo_id, **said)  # before anything is made on the Hub: it may refuse the licence
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    has_card = api.file_exists(repo_id, CARD_FILE, revision=revision)
    if not has_card:
        card(repo_id, **said).save(folder / CARD_FILE)
    elif license is not None:
        there = ModelCard.load(api.hf_hub_download(repo_id, CARD_FILE, revision=revision))
        there.data.license = license
        there.save(folder / CARD_FILE)
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=commit_message or "Upload with open-musiclm",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
        ignore_patterns=[*ignore_patterns, *([CARD_FILE] if has_card and license is None else [])],
    )


class PublishedModel(ReadWhole):
    """Mixin of stages and quantizers: read whole or refused; `push_to_hub` writes a card of what the part is and belongs to."""

    def push_to_hub(
        self, repo_id: str, *, max_shard_size: int | str = "50GB", variant: str | None = None, **upload_kwargs: Any
    ) -> CommitInfo:
        """Uploads the weights, the config and a model card to the Hub; see [`upload`] for the other arguments.

        Args:
            max_shard_size, variant: As `save_pretrained`.
        """
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(scratch, max_shard_size=max_shard_size, variant=variant)  # type: ignore[attr-defined]
            return upload(Path(scratch), repo_id, partial(card_of_components, {"": self}), **upload_kwargs)
