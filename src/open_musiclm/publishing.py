"""Uploading to the Hub: one call, one commit, a model card with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from .model_card import card_of_components

CARD_FILE = "README.md"


def publish(
    save: Callable[[Path], Any],
    repo_id: str,
    *,
    card: Callable[[str], Any] | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    allow_patterns: list[str] | None = None,
):
    """Creates a repository if need be and uploads to it in one commit.

    Files that the Hub already has are not sent again, so after an interrupted upload the same call goes on.

    Args:
        save: Writes the files into the folder it is given.
        card: Repository id → model card, for a repository that has no README.md yet; one that is there is kept.
        private, token, revision, create_pr, commit_message, commit_description: As `HfApi.upload_folder`.

    Returns:
        The `CommitInfo` of the upload.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save(folder)
        if api.file_exists(repo_id, CARD_FILE, revision=revision):
            (folder / CARD_FILE).unlink(missing_ok=True)
        elif card is not None:
            card(repo_id).save(folder / CARD_FILE)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload with open-musiclm",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            allow_patterns=allow_patterns,
        )


class PublishedModel:
    """Mixin of stages and quantizers: `push_to_hub` writes a card that says what the part is and belongs to."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        **publish_kwargs: Any,
    ):
        """Uploads the weights, the config and a model card to the Hub; see [`publish`] for the other arguments.

        Args:
            max_shard_size, variant: As `save_pretrained`.
        """

        def save(folder: Path) -> None:
            self.save_pretrained(folder, max_shard_size=max_shard_size, variant=variant)  # type: ignore[attr-defined]

        def card(repo: str):
            return card_of_components({"": self}, repo)

        return publish(save, repo_id, card=card, **publish_kwargs)
