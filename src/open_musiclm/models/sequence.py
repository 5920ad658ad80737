"""Between a stage's streams and its transformer: steps → one sequence of vectors, and its rows → logits of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .configuration import MusicLMStageConfig
from .patterns import take_up
from .streams import PADDING_ID, TokenStream, embedding_rows


class StartVectors(nn.ParameterDict):
    """One learned start vector a stream: (hidden_size,) each."""

    def __init__(self, streams: list[TokenStream], hidden_size: int):
        super().__init__({s.name: nn.Parameter(torch.empty(hidden_size)) for s in streams})


class Heads(nn.ParameterDict):
    """One output matrix a stream and codebook: (num_codebooks, codebook_size + 1, hidden_size) each."""

    def __init__(self, streams: list[TokenStream], hidden_size: int):
        super().__init__(
            {s.name: nn.Parameter(torch.empty(s.num_codebooks, s.codebook_size + 1, hidden_size)) for s in streams}
        )


class StreamSequenceMixin:
    """What a stage does with its tables, start vectors and heads."""

    config: MusicLMStageConfig
    streams: list[TokenStream]
    embeddings: nn.ModuleDict
    position_embeddings: nn.ModuleDict | None
    start_vectors: StartVectors
    heads: Heads

    def embed_steps(
        self, steps: torch.Tensor, stream: TokenStream, first_step: int | torch.Tensor = 0
    ) -> torch.Tensor:
        """(batch, steps, columns) → (batch, steps, hidden_size): the sum of a step's tokens; padding gives zeros."""
        padding = steps == PADDING_ID
        rows = embedding_rows(steps.masked_fill(padding, 0), stream, first_step)
        embedded = self.embeddings[stream.name](rows).masked_fill(padding.unsqueeze(-1), 0.0)
        embedded = embedded.squeeze(2) if steps.shape[2] == 1 else embedded.sum(dim=2)
        if self.position_embeddings is not None:
            index = torch.arange(steps.shape[1], device=steps.device) + first_step
            if isinstance(first_step, int):
                check_positions(stream, first_step + steps.shape[1], self.config.max_position_embeddings)
            embedded = embedded + self.position_embeddings[stream.name](index)
        return embedded

    def embed_sequence(
        self, steps: dict[str, torch.Tensor], append_condition_eos: bool, mask_condition_eos: bool
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """The whole sequence of a first call.

        Args:
            steps: of each stream by name, (batch, steps, columns).
            append_condition_eos, mask_condition_eos: see [`forward`]; they are for flat streams.

        Returns:
            embedded (batch, rows, hidden_size), the mask of visible keys (batch, rows), and the number of rows of each
            stream, its start vector included.
        """
        rows, masks, sizes = [], [], []
        for stream in self.streams:
            own = steps[stream.name]
            visible = torch.ones(own.shape[:2], dtype=torch.bool, device=own.device)
            if stream is not self.streams[-1]:
                padding = (own == PADDING_ID).all(dim=-1)
                hidden = padding
                if stream.pattern == "flat" and append_condition_eos:
                    own = F.pad(own, (0, 0, 0, 1), value=stream.eos_id)
                    padding = F.pad(padding, (0, 1), value=False)
                    hidden = F.pad(hidden, (0, 1), value=mask_condition_eos)
                    if stream.optional:  # what is not there does not end either
                        padding[:, -1] = padding[:, :-1].all(dim=1)
                        own, hidden = own.masked_fill(padding.unsqueeze(-1), PADDING_ID), hidden | padding
                visible = ~hidden
                if stream.pattern == "flat" and mask_condition_eos:
                    # a hidden key's id is 0, as published; of an optional stream nothing is left
                    filled = hidden & ~padding if stream.optional else hidden
                    own = own.masked_fill(filled.unsqueeze(-1), 0)
            start = self.start_vectors[stream.name].expand(own.shape[0], 1, -1)
            rows.append(torch.cat([start, self.embed_steps(own, stream)], dim=1))
            masks.append(F.pad(visible, (1, 0), value=True))
            sizes.append(own.shape[1] + 1)
        return torch.cat(rows, dim=1), torch.cat(masks, dim=1), sizes

    def compute_logits(self, hidden_states: torch.Tensor, stream: TokenStream, first_step: int | torch.Tensor = 0):
        """(batch, steps, hidden_size) → (batch, steps, columns, codebook_size + 1), each through its codebook's head."""
        heads = self.heads[stream.name]
        num_codebooks, length = stream.num_codebooks, hidden_states.shape[1]
        if stream.pattern != "flat" or num_codebooks == 1:
            return F.linear(hidden_states, heads.flatten(0, 1)).unflatten(-1, heads.shape[:2])
        if length == 1:
            return F.linear(hidden_states, heads[first_step % num_codebooks]).unsqueeze(2)
        first = int(first_step) % num_codebooks
        num_frames = -(-(first + length) // num_codebooks)
        frames = F.pad(hidden_states, (0, 0, first, num_frames * num_codebooks - first - length))
        frames = frames.unflatten(1, (num_frames, num_codebooks))  # (batch, frames, codebooks, hidden_size)
        logits = torch.einsum("bfqh,qch->bfqc", frames, heads)
        return logits.flatten(1, 2)[:, first : first + length].unsqueeze(2)


def logits_of_tokens(logits: torch.Tensor, stream: TokenStream, num_steps: int) -> torch.Tensor:
    """Logits of steps → of tokens; in a flat stream, and where there is no step yet, also what comes next."""
    if stream.pattern == "flat":
        return logits[:, :, 0]
    return take_up(logits[:, :num_steps], stream) if num_steps else logits[:, 0]


def check_positions(stream: TokenStream, num_steps: int, num_positions: int | None) -> None:
    """Refuse more steps than a stage has learned positions."""
    if num_positions is not None and num_steps > num_positions:
        raise ValueError(
            f"Stream {stream.name!r} has {num_steps} steps, more than the {num_positions} learned positions of this "
            "stage (`max_position_embeddings`). Ask for fewer frames at a time."
        )
