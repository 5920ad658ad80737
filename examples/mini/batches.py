"""What the stages are trained on, drawn on the device that trains: windows of scores, and windows of tokens of clips.

The semantic stage needs no sound: its tokens are what an exact ear would write down. On a CPU each score is seen once. A
GPU takes them faster than they are composed, so there other processes compose them into a pool that grows while it
is drawn from.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from captions import write_captions
from compose import compose, draw_truth, frame_truth
from corpus import ATTRIBUTE_VALUES
from describe import DESCRIPTIONS, describe, end_is_near, stretched, with_end, with_singer
from features import embed_texts
from fit_codebooks import blur
from recipe import Recipe
from render import SPLITS
from tokenize_corpus import load_tokens
from train_clap import load_attribute_table
from train_semantic_encoder import frame_labels, joint_labels
from transformers import ClapModel, ClapProcessor

from open_musiclm import ClapQuantizer, MusicLMStageModel
from open_musiclm.models.streams import PADDING_ID

CAPTION_SHARE = 0.6
SHORT_WINDOW_IN_S = 2.4
LONG_DESCRIPTIONS = ("lyrics", "melody")
LONG_SHARE = 0.4  # of the batches of the semantic stage that have the long descriptions at all
DESCRIBED_SHARE = 0.55  # of the windows of the semantic stage that are told anything beside CLAP tokens
TIMED_SHARE = 0.6  # of the windows of the semantic stage that are told the time, beside those in which a piece ends
AFTER_SHARE = 0.3  # of the windows of the coarse stage that are told what follows
FIRST_SHARE = 0.2  # of the windows of acoustic stages that begin where the clip does
SHARD_SIZE = 500  # scores that a process adds to the pool at once

Fields = dict[str, torch.Tensor]
Batches = Callable[[int], Fields]


class ScoreMaker:
    """The fields of scores from which batches are drawn: int16, scores first.

    `caption` and `table` (scores, quantizers) are the CLAP tokens of a caption and of where the table of attributes puts
    the clip; `score` (scores, frames - 1, groups) what is to be predicted; `ends` (scores,) whether the piece ends in the
    clip; and each stream of `DESCRIPTIONS`.
    """

    def __init__(self, models: Path, recipe: Recipe, split: str):
        self.recipe, self.split = recipe, split
        self.clap = ClapModel.from_pretrained(models / "clap", dtype=torch.float32).eval()
        self.processor = ClapProcessor.from_pretrained(models / "clap")
        self.quantizer = ClapQuantizer.from_pretrained(models / "clap_quantizer")
        self.table = load_attribute_table(models)

    @torch.no_grad()
    def __call__(self, first: int, count: int) -> Fields:
        """The scores of `count` clips from the index `first` on: the same for the same arguments, always."""
        recipe, truths, texts, tokens, said, ends = self.recipe, [], [], [], [], []
        for index in range(first, first + count):
            rng = np.random.default_rng([recipe.seed, SPLITS.index(self.split), index])
            truth = with_end(draw_truth(rng, recipe.clip_length_in_s), recipe.clip_length_in_s, rng)
            score = compose(with_singer(truth, rng), rng)
            frames = frame_truth(score, recipe.clip_length_in_s)
            truths.append(score.truth)
            texts.append(write_captions(score.truth, rng, 1)[0]["text"])
            labels = frame_labels({"truth": score.truth.as_dict(), "frames": frames})
            tokens.append(torch.stack(joint_labels(torch.from_numpy(labels)), dim=-1)[:-1])
            said.append(describe(stretched(score, recipe.clip_length_in_s, rng), frames))
            ends.append(end_is_near(score, recipe.clip_length_in_s))
        values = [[v.index(getattr(t, name)) for name, v in ATTRIBUTE_VALUES.items()] for t in truths]
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + first)
        points = blur(self.table(torch.tensor(values)), recipe.clap_noise, generator)
        fields = {
            "caption": self.quantizer.encode(embed_texts(self.clap, self.processor, texts)),
            "table": self.quantizer.encode(points),
            "score": torch.stack(tokens),
            "ends": torch.tensor(ends),
            **{name: torch.from_numpy(np.stack([some[name] for some in said])) for name in DESCRIPTIONS},
        }
        return {name: ids.to(torch.int16) for name, ids in fields.items()}


class FreshScores:
    """Every batch of scores, of at most `largest`, never seen before: batch i is the same in every run."""

    def __init__(self, make: ScoreMaker, first: int, largest: int):
        self.make, self.first, self.largest = make, first, largest

    def draw(self, number: int, count: int, generator: torch.Generator) -> Fields:
        return self.make(self.first + number * self.largest, count)


_MAKER: ScoreMaker | None = None  # one a process


def _start(make: ScoreMaker) -> None:
    global _MAKER
    torch.set_num_threads(1)
    _MAKER = make


def _make_shard(first: int) -> dict[str, np.ndarray]:
    """As arrays, which are copied: a tensor would hold a file open in each of two processes."""
    assert _MAKER is not None
    return {name: ids.numpy() for name, ids in _MAKER(first, SHARD_SIZE).items()}


class PooledScores:
    """Scores drawn from those that `num_workers` processes have composed so far, up to `capacity` of them."""

    def __init__(
        self, make: ScoreMaker, first: int, num_workers: int, device: torch.device, capacity: int = 1_000_000
    ):
        self.device, self.first, self.num_shards = device, first, math.ceil(capacity / SHARD_SIZE)
        self.workers = ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_start, initargs=(make,))
        self.ahead = 2 * num_workers
        self.begun: deque[Future] = deque()  # those that are not in the pool yet
        self.fields: Fields = {}
        self.size = 0

    def _grow(self) -> None:
        while len(self.begun) < self.ahead and self.size // SHARD_SIZE + len(self.begun) < self.num_shards:
            first = self.first + self.size + len(self.begun) * SHARD_SIZE
            self.begun.append(self.workers.submit(_make_shard, first))
        while self.begun and (self.begun[0].done() or self.size == 0):
            made = self.begun.popleft().result()
            shard = {name: torch.from_numpy(ids).to(self.device) for name, ids in made.items()}
            for name, ids in shard.items():
                if self.size + SHARD_SIZE > len(self.fields.get(name, ())):
                    self._enlarge(name, ids)
                self.fields[name][self.size : self.size + SHARD_SIZE] = ids
            self.size += SHARD_SIZE

    def _enlarge(self, name: str, ids: torch.Tensor) -> None:
        """Twice the room, so that what is there is copied a few times only."""
        room = ids.new_empty((max(2 * self.size, 8 * SHARD_SIZE), *ids.shape[1:]))
        if self.size:
            room[: self.size] = self.fields[name][: self.size]
        self.fields[name] = room

    def draw(self, number: int, count: int, generator: torch.Generator) -> Fields:
        self._grow()
        chosen = torch.randint(self.size, (count,), generator=generator).to(self.device)
        return {name: ids[chosen] for name, ids in self.fields.items()}

    def close(self) -> None:
        self.workers.shutdown(wait=False, cancel_futures=True)


class ScoreBatches:
    """Batches for the semantic stage.

    Args:
        scores: where they are drawn from.
        described: tell the streams of `DESCRIPTIONS` to some of the samples; otherwise they are left out.
        mixed: every other batch has `recipe.num_short_windows` short windows instead.
    """

    def __init__(
        self,
        scores: FreshScores | PooledScores,
        recipe: Recipe,
        batch_size: int,
        described: bool = False,
        mixed: bool = False,
    ):
        self.scores, self.recipe, self.batch_size = scores, recipe, batch_size
        self.described, self.mixed = described, mixed

    def __call__(self, number: int) -> Fields:
        is_short = self.mixed and number % 2 == 0
        generator = torch.Generator().manual_seed((self.recipe.seed * 31 + 7) * 1_000_003 + number)
        fields = self.scores.draw(number, self.recipe.num_short_windows if is_short else self.batch_size, generator)
        by_text = _some(len(fields["caption"]), CAPTION_SHARE, generator, fields["caption"].device)
        batch = {
            "clap_token_ids": torch.where(by_text[:, None], fields["caption"], fields["table"]),
            "semantic_token_ids": fields["score"],
        }
        if self.described:
            batch |= self._descriptions(fields, generator)
        batch = {name: ids.long() for name, ids in batch.items()}
        return self._shorten(batch) if is_short else batch

    def _descriptions(self, fields: Fields, generator: torch.Generator) -> Fields:
        """Each stream told to some samples; the long ones (melody, lyrics) are left out of most batches as a whole."""
        count, device = len(fields["caption"]), fields["caption"].device
        told, batch = _some(count, DESCRIBED_SHARE, generator, device), {}
        for name in DESCRIPTIONS:
            if name in LONG_DESCRIPTIONS and torch.rand((), generator=generator) > LONG_SHARE:
                ids = fields[name][:, :0]
            else:
                shown = told & _some(count, 0.8 if name == "lyrics" else 0.5, generator, device)
                if name == "timing":
                    # ends are always told: a stage that knew them without would end a long piece anywhere
                    shown = _some(count, TIMED_SHARE, generator, device) | fields["ends"].bool()
                ids = fields[name].masked_fill(~shown[:, None, None], PADDING_ID)
            batch[f"{name}_token_ids"] = ids
        return batch

    def _shorten(self, batch: Fields) -> Fields:
        rates = {f"{name}_token_ids": fields.get("frame_rate") for name, fields in DESCRIPTIONS.items()}
        rates["semantic_token_ids"] = self.recipe.frame_rate
        return {
            name: ids[:, : math.ceil(SHORT_WINDOW_IN_S * rates[name])] if rates.get(name) else ids
            for name, ids in batch.items()
        }


def _some(count: int, share: float, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """bool (count,): true with the probability `share` each."""
    return (torch.rand(count, generator=generator) < share).to(device)


class WindowBatches:
    """Batches of random windows of tokens of clips for an acoustic stage: batch i is the same in every run."""

    def __init__(
        self,
        folder: Path,
        split: str,
        stage: MusicLMStageModel,
        recipe: Recipe,
        batch_size: int,
        device: torch.device | str = "cpu",
    ):
        self.tokens = {name: ids.to(device) for name, ids in load_tokens(folder, split).items()}
        self.recipe, self.batch_size, self.device = recipe, batch_size, device
        self.streams, self.window = list(stage.streams), round(stage.config.window_in_s * recipe.frame_rate)

    def __call__(self, number: int) -> Fields:
        generator = torch.Generator().manual_seed((self.recipe.seed * 31 + 8) * 1_000_003 + number)
        tokens, count = self.tokens, self.batch_size
        longest = max((self._context(stream) for stream in self.streams), default=0)
        clips = torch.randint(len(tokens["codec"]), (count,), generator=generator).to(self.device)
        firsts = torch.randint(tokens["codec"].shape[1] - self.window - longest + 1, (count,), generator=generator)
        firsts[torch.rand(count, generator=generator) < FIRST_SHARE] = 0  # as pieces begin
        firsts = firsts.to(self.device)
        batch = {}
        for stream in self.streams:
            if stream.source == "clap":
                by_text = _some(count, CAPTION_SHARE, generator, clips.device)
                caption = torch.randint(tokens["clap_text"].shape[1], (count,), generator=generator).to(self.device)
                ids = torch.where(by_text[:, None], tokens["clap_text"][clips, caption], tokens["clap_audio"][clips])
            elif stream.source == "semantic":  # as it is heard, or as the stage before writes it
                frames = firsts[:, None] + torch.arange(self.window - stream.num_edge_frames, device=clips.device)
                heard, written = tokens["semantic"][clips[:, None], frames], tokens["score"][clips[:, None], frames]
                ids = torch.where(_some(count, 0.5, generator, clips.device)[:, None, None], heard, written)
            else:
                is_after = stream.context == "after"
                size = self._context(stream) or self.window
                frames = firsts[:, None] + (self.window if is_after else 0) + torch.arange(size, device=clips.device)
                books = slice(stream.first_codebook, stream.first_codebook + stream.num_codebooks)
                ids = tokens["codec"][..., books][clips[:, None], frames]
                if is_after:
                    shown = _some(count, AFTER_SHARE, generator, clips.device)
                    ids = ids.masked_fill(~shown[:, None, None], PADDING_ID)
            batch[stream.argument] = ids.long()
        return batch

    def _context(self, stream) -> int:
        return round(stream.context_in_s * self.recipe.frame_rate) if stream.context_in_s else 0
