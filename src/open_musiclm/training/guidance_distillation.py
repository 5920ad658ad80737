"""Guidance as a token, learnt by self-distillation (after Meng et al. 2023, for a stage of tokens).

    teacher (the stage as it was, two branches, mixed with scale s) ─→ distribution of each token ─┐
                                                                                                   ├── divergence
    student (the same weights and a stream that says s, one branch) ─→ distribution ───────────────┘

Both read the tokens of recordings. A share of the samples has its conditioning hidden, and a share the scale: there the
student stays what the teacher is, so two branches (a negative prompt needs them) go on working.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Trainer

from ..models.guidance import find_guidance_stream, guidance_stream, id_of_scale, scale_of_id
from ..models.loss import IGNORED_LABEL
from ..models.masks import drop_conditions
from ..models.stages import MusicLMStageModel
from ..models.streams import PADDING_ID, TokenStream
from .added_streams import add_streams

#: of a batch that is only looked at, which scales the samples have: far apart in the list, the same every time
EVALUATED_EVERY = 7


def make_student(stage: MusicLMStageModel, largest_scale: float) -> tuple[MusicLMStageModel, MusicLMStageModel]:
    """The teacher, a stage that was trained with condition dropout, and the student: it, and a stream of scales.

    Raises:
        ValueError: there is nothing to distil: no dropout, no conditioning, or a stream of scales already.
    """
    if find_guidance_stream(stage.streams) is not None:
        raise ValueError("This stage reads its guidance scale already; start from the one that it was distilled from.")
    if not stage.condition_streams or not stage.config.condition_dropout:
        raise ValueError(
            "Guidance is distilled from a stage that was trained with and without its conditioning; this one never was "
            "without. Train it with `--condition-dropout 0.2` first."
        )
    teacher = copy.deepcopy(stage).eval().requires_grad_(False)
    stream = guidance_stream(largest_scale)
    student = add_streams(stage, [stream])
    # scales in their order on a line from one vector to another: what is learnt of one is learnt of its neighbours
    place = torch.linspace(0, 1, stream.codebook_size)[:, None]
    with torch.no_grad():
        embeddings = student.get_parameter(f"embeddings.{stream.name}.weight")
        embeddings[: stream.codebook_size] = embeddings[0] * (1 - place) + embeddings[stream.codebook_size - 1] * place
    return teacher, student


@torch.no_grad()
def guided_logits(teacher: MusicLMStageModel, batch: dict[str, torch.Tensor], scales: torch.Tensor) -> torch.Tensor:
    """The mixed logits of both branches, float32 (batch, tokens (+ 1), codebook_size); EOS is never drawn.

    Args:
        batch: streams by argument name, of the predicted one what the logits follow.
        scales (batch,): of each sample.
    """
    predicted = teacher.predicted_stream
    both = {
        name: torch.cat([ids, ids if name == predicted.argument else torch.full_like(ids, PADDING_ID)])
        for name, ids in batch.items()
    }
    conditional, without = teacher(**both).logits[..., : predicted.codebook_size].float().chunk(2)
    return without + scales[:, None, None].to(without.device) * (conditional - without)


def divergence(target: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed Kullback-Leibler divergence of the target from another's distributions, in nats, and of how many tokens.

    Args:
        target, logits (batch, tokens (+ 1), at least codebook_size): the first has codebook_size entries.
        labels (batch, tokens): `IGNORED_LABEL` where nothing is counted.
    """
    size = target.shape[-1]
    labels = F.pad(labels.flatten(1), (0, max(target.shape[1] - labels.flatten(1).shape[1], 0)), value=IGNORED_LABEL)
    counted = (labels >= 0) & (labels < size)
    goal, found = target.log_softmax(dim=-1), logits[..., :size].float().log_softmax(dim=-1)
    each = (goal.exp() * (goal - found)).sum(dim=-1)
    return each.masked_fill(~counted, 0.0).sum(), counted.sum()


class GuidanceDistillation(Trainer):
    """A Trainer whose loss is the student's divergence from its guided teacher.

    Args:
        teacher: see [`make_student`]; it is not trained and not saved.
    """

    def __init__(self, *args: Any, teacher: MusicLMStageModel, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.teacher: Any = nn.Module.to(teacher, self.args.device)
        self.scales = scales_of(self.model)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ):
        batch = dict(inputs)
        labels = batch.pop("labels")
        ids = self._draw(batch, len(labels)) if model.training else self._fixed(len(labels), labels.device)
        shown = batch | {self.scales.argument: ids[:, None]}
        target = guided_logits(self.teacher, batch, scale_of_id(ids.clamp(min=0)))
        outputs = model(**shown, hide_conditions=False)
        total, number = divergence(target, outputs.logits, labels)
        loss = total / (number if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # each process's part is averaged over them
        return (loss, {"logits": outputs.logits}) if return_outputs else loss

    def _draw(self, batch: dict[str, torch.Tensor], batch_size: int) -> torch.Tensor:
        """Scales at random, `PADDING_ID` for a share; hides conditioning as the stage's own training did."""
        config, device = self.teacher.config, next(iter(batch.values())).device
        conditions = {s.argument: batch[s.argument] for s in self.teacher.condition_streams if s.argument in batch}
        optional = [name for name in conditions if name.removesuffix("_token_ids") in self.teacher.optional_names]
        flat = {name: ids.flatten(1) for name, ids in conditions.items()}
        dropped = drop_conditions(flat, optional, config.condition_dropout)
        batch.update({name: dropped[name].view_as(ids) for name, ids in conditions.items()})
        ids = torch.randint(self.scales.codebook_size, (batch_size,), device=device)
        return ids.masked_fill(torch.rand(batch_size, device=device) < config.condition_dropout, PADDING_ID)

    def _fixed(self, batch_size: int, device: torch.device) -> torch.Tensor:
        return torch.arange(batch_size, device=device) * EVALUATED_EVERY % self.scales.codebook_size


def scales_of(student: Any) -> TokenStream:
    """A student's stream of scales."""
    stream = find_guidance_stream(student.streams)
    assert stream is not None  # `make_student` gave it one
    return stream


@torch.no_grad()
def measure(
    student: MusicLMStageModel, teacher: MusicLMStageModel, batch: dict[str, torch.Tensor], scale: float
) -> dict[str, float]:
    """How far one branch is from two, in nats a token: with the scale as a token, and without guidance.

    Args:
        batch: of a `CropCollator`, with labels.
    """
    batch = dict(batch)
    labels = batch.pop("labels")
    scales = torch.full((len(labels),), scale)
    target = guided_logits(teacher.eval(), batch, scales)
    stream = scales_of(student)
    ids = torch.full((len(labels), 1), id_of_scale(scale, stream) or 0)
    found = {
        "scale as a token": student.eval()(**batch, **{stream.argument: ids}).logits,
        "no guidance": teacher(**batch).logits,
    }
    measured = {}
    for name, logits in found.items():
        total, number = divergence(target, logits, labels)
        measured[name] = float(total / number)
    return measured
