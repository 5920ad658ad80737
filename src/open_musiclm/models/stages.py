"""The three stages: token streams in, logits of the last stream out (MusicLM, section 3.2).

    each stream:  ids ─ embedding (+ learned position) ─┐      start₀ tokens₀ EOS₀ start₁ … start_S tokens_S
                                                         ├──→  decoder ──→ one head a codebook ──→ logits, loss
    its start vector ────────────────────────────────────┘

`MusicLMSemanticModel`, `MusicLMCoarseModel` and `MusicLMFineModel` are one model: they differ in the defaults of their
configs. Stages are asked for tokens through `generate` (see generation.py).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, GenerationConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils import ModelOutput

from ..hub.publishing import PublishedModel
from .configuration import MusicLMCoarseConfig, MusicLMFineConfig, MusicLMSemanticConfig, MusicLMStageConfig
from .generation import StageGenerationMixin
from .streams import PADDING_ID, TokenStream, check_token_range, embedding_rows, flatten_tokens
from .transformer import MusicLMDecoder, MusicLMLayerNorm, MusicLMUnitNorm


@dataclass
class MusicLMStageOutput(ModelOutput):
    """
    What a stage returns.

    Args:
        loss (scalar): with `labels`, the cross-entropy averaged over the predicted stream's tokens, EOS included.
        logits (batch, tokens + 1, codebook_size + 1): of the predicted stream; position i predicts its token i, the
            last one what follows the tokens given.
        past_key_values: the cache, if there is one.
        condition_logits: with `output_condition_logits` or weighted streams, the logits of each conditioning stream,
            (batch, tokens + 1, codebook_size + 1) each.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    condition_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class PrefixState:
    """What a cache has to remember of the sequence before its newest rows; it travels on the cache."""

    #: rows before the predicted stream's first token: all conditioning, and every start vector
    num_rows: int
    #: (batch, num_rows) bool, False where a conditioning token is hidden; `None` if none is
    key_mask: torch.Tensor | None
    #: (heads, length) position bias of each distance, as far as it was computed
    bias_table: torch.Tensor | None = None


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


class MusicLMStageModel(PublishedModel, PreTrainedModel, StageGenerationMixin):
    """A causal decoder over an ordered list of token streams, the last one predicted."""

    config: MusicLMStageConfig
    config_class = MusicLMStageConfig
    base_model_prefix = "stage"
    main_input_name = "clap_token_ids"
    _no_split_modules: ClassVar[list[str]] = ["MusicLMDecoderLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    # No cast and no int8 for it: see `ContinuousPositionBias`.
    _keep_in_fp32_modules: ClassVar[list[str]] = ["decoder.position_bias"]
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["decoder.position_bias"]
    _supports_sdpa = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True
    # the loss is a mean over the batch's tokens, as published: the Trainer divides it by its accumulation steps itself
    accepts_loss_kwargs = False

    def __init__(self, config: MusicLMStageConfig):
        super().__init__(config)
        self.streams = config.token_streams
        size = config.hidden_size
        self.embeddings = nn.ModuleDict({s.name: nn.Embedding(s.num_embeddings, size) for s in self.streams})
        self.start_vectors = StartVectors(self.streams, size)
        self.heads = Heads(self.streams, size)
        self.position_embeddings = (
            nn.ModuleDict({s.name: nn.Embedding(config.max_position_embeddings, size) for s in self.streams})
            if config.max_position_embeddings is not None
            else None
        )
        self.decoder = MusicLMDecoder(config)
        self.post_init()
        self._set_generation_defaults()

    def _set_generation_defaults(self) -> None:
        """The original's sampling: top 10 % of the vocabulary, the stage's temperature, conditioning EOS as trained."""
        settings = {
            "do_sample": True,
            "temperature": self.default_temperature,
            "top_k": max(int((1 - 0.9) * (self.predicted_stream.codebook_size + 1)), 1),
            "mask_condition_eos": True,
        }
        self.generation_config = GenerationConfig(**settings | (self.config.sampling_defaults or {}))

    @functools.wraps(PreTrainedModel.save_pretrained)  # diffusers reads its parameters
    def save_pretrained(self, *args, **kwargs) -> None:
        # The sampling settings go into config.json too: see `sampling_defaults`.
        settings = self.generation_config.to_diff_dict()
        self.config.sampling_defaults = {name: settings[name] for name in settings if name != "transformers_version"}
        super().save_pretrained(*args, **kwargs)

    default_temperature: ClassVar[float] = 1.0

    def get_input_embeddings(self) -> nn.Embedding:
        """The predicted stream's table (quantizers of weights ask for one)."""
        return self.embeddings[self.predicted_stream.name]

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings[self.predicted_stream.name] = value

    @property
    def predicted_stream(self) -> TokenStream:
        return self.streams[-1]

    @property
    def condition_streams(self) -> list[TokenStream]:
        return self.streams[:-1]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # As the original starts: unit-variance embeddings and start vectors (keys and values read the stream without
        # a norm), and PyTorch's defaults for linear layers. Heads start small, so the first loss is near ln(vocabulary).
        if isinstance(module, nn.Linear | nn.Conv1d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight.shape[1])
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, MusicLMLayerNorm | MusicLMUnitNorm):
            init.ones_(module.weight)
        elif isinstance(module, StartVectors):
            for parameter in module.values():
                init.normal_(parameter)
        elif isinstance(module, Heads):
            for parameter in module.values():
                init.normal_(parameter, std=1 / math.sqrt(3 * parameter.shape[-1]))

    # ---------------------------------------------------------------- sequence

    def _collect_streams(self, given: dict[str, torch.Tensor | None], past_length: int) -> dict[str, torch.Tensor]:
        """The flat ids of each stream this stage has, by name; unknown and missing streams are refused by name."""
        arguments = {stream.argument: stream for stream in self.streams}
        unknown = [name for name, value in given.items() if value is not None and name not in arguments]
        if unknown:
            raise ValueError(f"{type(self).__name__} has no {unknown[0]!r}; it takes {', '.join(arguments)}.")
        flat = {}
        for argument, stream in arguments.items():
            token_ids = given.get(argument)
            if past_length and stream.name != self.predicted_stream.name:
                continue  # its keys and values are in the cache
            if token_ids is None and stream.name != self.predicted_stream.name:
                raise ValueError(f"{type(self).__name__} needs `{argument}`; it takes {', '.join(arguments)}.")
            if token_ids is not None:
                flat[stream.name] = flatten_tokens(token_ids, stream).to(self.device)
        sizes = {name: len(token_ids) for name, token_ids in flat.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"The streams must have one batch size, got {sizes}.")
        if not flat:
            raise ValueError(f"`{self.predicted_stream.argument}` is needed beside a filled cache.")
        if self.predicted_stream.name not in flat:
            flat[self.predicted_stream.name] = next(iter(flat.values())).new_empty(next(iter(sizes.values())), 0)
        return flat

    def _embed(self, token_ids: torch.Tensor, stream: TokenStream, first_index: int | torch.Tensor = 0):
        """(batch, tokens) → (batch, tokens, hidden_size); padding gives zeros."""
        padding = token_ids == PADDING_ID
        rows = embedding_rows(token_ids.masked_fill(padding, 0), stream, first_index)
        embedded = self.embeddings[stream.name](rows).masked_fill(padding.unsqueeze(-1), 0.0)
        if self.position_embeddings is not None:
            index = torch.arange(token_ids.shape[1], device=token_ids.device) + first_index
            table = self.position_embeddings[stream.name]
            if isinstance(first_index, int) and first_index + token_ids.shape[1] > table.num_embeddings:
                raise ValueError(
                    f"Stream {stream.name!r} has {first_index + token_ids.shape[1]} tokens, more than the "
                    f"{table.num_embeddings} learned positions of this stage (`max_position_embeddings`)."
                )
            embedded = embedded + table(index)
        return embedded

    def _embed_sequence(
        self, flat: dict[str, torch.Tensor], append_condition_eos: bool, mask_condition_eos: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, list[int]]:
        """The whole sequence of a first call.

        Returns:
            embedded (batch, rows, hidden_size), the mask of visible keys (batch, rows) or `None`, and the number of
            rows of each stream, its start vector included.
        """
        rows, masks, sizes = [], [], []
        for stream in self.streams:
            token_ids = flat[stream.name]
            is_condition = stream.name != self.predicted_stream.name
            visible = torch.ones_like(token_ids, dtype=torch.bool)
            if is_condition:
                hidden = token_ids == PADDING_ID
                if append_condition_eos:
                    token_ids = F.pad(token_ids, (0, 1), value=stream.eos_id)
                    hidden = F.pad(hidden, (0, 1), value=mask_condition_eos)
                visible = ~hidden
                if mask_condition_eos:
                    token_ids = token_ids.masked_fill(hidden, 0)  # a hidden key's id is 0, as in training
            start = self.start_vectors[stream.name].expand(token_ids.shape[0], 1, -1)
            rows.append(torch.cat([start, self._embed(token_ids, stream)], dim=1))
            masks.append(F.pad(visible, (1, 0), value=True))
            sizes.append(token_ids.shape[1] + 1)
        return torch.cat(rows, dim=1), torch.cat(masks, dim=1), sizes

    def _head(self, hidden_states: torch.Tensor, stream: TokenStream, first_index: int | torch.Tensor = 0):
        """(batch, tokens, hidden_size) → (batch, tokens, codebook_size + 1): row i through the head of its codebook."""
        heads = self.heads[stream.name]
        num_codebooks, length = stream.num_codebooks, hidden_states.shape[1]
        if num_codebooks == 1:
            return F.linear(hidden_states, heads[0])
        if length == 1:
            return F.linear(hidden_states, heads[first_index % num_codebooks])
        first = int(first_index) % num_codebooks
        num_frames = -(-(first + length) // num_codebooks)
        frames = F.pad(hidden_states, (0, 0, first, num_frames * num_codebooks - first - length))
        frames = frames.unflatten(1, (num_frames, num_codebooks))  # (batch, frames, codebooks, hidden_size)
        logits = torch.einsum("bfqh,qch->bfqc", frames, heads)
        return logits.flatten(1, 2)[:, first : first + length]

    # ----------------------------------------------------------------- forward

    def forward(
        self,
        clap_token_ids: torch.Tensor | None = None,
        semantic_token_ids: torch.Tensor | None = None,
        coarse_token_ids: torch.Tensor | None = None,
        fine_token_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        append_condition_eos: bool = True,
        mask_condition_eos: bool = True,
        output_condition_logits: bool = False,
        **kwargs,
    ) -> MusicLMStageOutput:
        r"""
        Args:
            clap_token_ids (batch, 12), semantic_token_ids (batch, frames), coarse_token_ids (batch, frames, 3),
                fine_token_ids (batch, frames, 5): the streams that this stage has; other streams go by
                `{name}_token_ids` too. Each may be flat, (batch, tokens). -1 is padding. The predicted stream may be
                left out: the logits are then those of its first token.
            labels (batch, frames, codebooks) or flat: ids of the predicted stream, usually the same as its input; -100
                is ignored. EOS is added by the model.
            past_key_values: a `DynamicCache` or `StaticCache` made with this model's config. If it is filled, the
                predicted stream's argument holds its new tokens only, and the conditioning streams are not read.
            use_cache: return a cache; by default the config's setting, and `False` in training and with labels.
            append_condition_eos: append EOS to the conditioning streams.
            mask_condition_eos: hide that EOS (and give it the id 0), as in training.
            output_condition_logits: return the conditioning streams' logits too.

        Raises:
            ValueError: a stream is missing, unknown, of the wrong shape, or holds ids outside its codebook.
        """
        given = {
            "clap_token_ids": clap_token_ids,
            "semantic_token_ids": semantic_token_ids,
            "coarse_token_ids": coarse_token_ids,
            "fine_token_ids": fine_token_ids,
        }
        given.update({name: kwargs.pop(name) for name in list(kwargs) if name.endswith("_token_ids")})

        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        prefix: PrefixState | None = getattr(past_key_values, "prefix_state", None)

        flat = self._collect_streams(given, past_length=0 if prefix is None else prefix.num_rows)
        predicted_ids = flat[self.predicted_stream.name]
        if not torch.compiler.is_compiling():
            for stream in self.streams:
                if stream.name in flat:
                    check_token_range(flat[stream.name], stream)

        if prefix is None:
            hidden_states, key_mask, sizes = self._embed_sequence(flat, append_condition_eos, mask_condition_eos)
            past_length: int | torch.Tensor = 0
            if past_key_values is not None:
                num_rows = sum(sizes[:-1]) + 1
                self._check_cached_prefix(num_rows, predicted_ids.shape[1])
                all_visible = bool(key_mask.all())
                prefix = PrefixState(num_rows, None if all_visible else key_mask[:, :num_rows])
                past_key_values.prefix_state = prefix
        else:
            past_length = past_key_values.get_seq_length()
            if isinstance(past_length, torch.Tensor):
                past_length = past_length.clone()  # a static cache counts in place
            hidden_states = self._embed(predicted_ids, self.predicted_stream, past_length - prefix.num_rows)
            key_mask, sizes = None, []

        attention_mask = self._attention_mask(hidden_states, key_mask, past_key_values, prefix, past_length)
        hidden_states = self.decoder(hidden_states, attention_mask, past_key_values, **kwargs)

        if sizes:
            *conditions, hidden_states = hidden_states.split(sizes, dim=1)
            first_index = 0
        else:
            conditions, first_index = [], past_length - prefix.num_rows + 1
        logits = self._head(hidden_states, self.predicted_stream, first_index)

        weights = self.config.loss_weights or [0.0] * len(self.condition_streams) + [1.0]
        condition_logits = None
        if sizes and (output_condition_logits or (labels is not None and any(weights[:-1]))):
            condition_logits = tuple(
                self._head(states[:, :-1], stream)
                for states, stream in zip(conditions, self.condition_streams, strict=True)
            )
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, predicted_ids, condition_logits, flat, weights)
        return MusicLMStageOutput(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            condition_logits=condition_logits if output_condition_logits else None,
        )

    def _attention_mask(
        self,
        hidden_states: torch.Tensor,
        key_mask: torch.Tensor | None,
        past_key_values: Cache | None,
        prefix: PrefixState | None,
        past_length: int | torch.Tensor,
    ) -> torch.Tensor:
        """The additive mask of this call's rows over all keys, from what the cache remembers of the rows before."""
        batch, length = hidden_states.shape[:2]
        positions = torch.arange(length, device=hidden_states.device) + past_length
        num_keys = None if past_key_values is None else getattr(past_key_values.layers[0], "max_cache_len", None)
        if num_keys is None:  # no cache, or one that grows
            num_keys = int(past_length) + length
        elif isinstance(past_length, int) and past_length + length > num_keys:
            raise ValueError(f"The static cache holds {num_keys} positions; this sequence has {past_length + length}.")

        if prefix is not None and prefix.key_mask is not None:
            key_mask = F.pad(prefix.key_mask, (0, num_keys - prefix.key_mask.shape[1]), value=True)
        elif prefix is not None:
            key_mask = None
        if self.training and self.config.forgetful_mask_prob > 0 and past_key_values is None:
            key_mask = key_mask & self._forgetful_mask(batch, length)

        if prefix is None:
            table = self.decoder.bias_table(num_keys)
        else:
            if prefix.bias_table is None or self._table_reach(prefix.bias_table) < num_keys:
                prefix.bias_table = self.decoder.bias_table(-(-num_keys // 256) * 256)
            table = prefix.bias_table
        return self.decoder.attention_mask(positions, num_keys, key_mask, table)

    def _check_cached_prefix(self, num_rows: int, num_tokens: int) -> None:
        """A cache cannot serve rows that later ones still change."""
        if self.config.non_causal_prefix_size > num_rows + num_tokens:
            raise ValueError(
                f"A cache needs the non-causal prefix ({self.config.non_causal_prefix_size} positions) within the first "
                f"call's {num_rows + num_tokens}; pass `use_cache=False`."
            )

    def _table_reach(self, table: torch.Tensor) -> int:
        return table.shape[1] - max(self.config.non_causal_prefix_size - 1, 0)

    def _forgetful_mask(self, batch: int, length: int) -> torch.Tensor:
        """Forgetful causal masking (Liu et al. 2022): (batch, length) bool, a fixed share hidden, never the first."""
        num_hidden = min(int(length * self.config.forgetful_mask_prob), length - 1)
        noise = torch.rand(batch, length, device=self.device)
        noise[:, 0] = -1.0
        hidden = noise.topk(num_hidden, dim=1).indices
        return torch.ones(batch, length, dtype=torch.bool, device=self.device).scatter(1, hidden, False)

    # -------------------------------------------------------------------- loss

    def _loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        predicted_ids: torch.Tensor,
        condition_logits: tuple[torch.Tensor, ...] | None,
        flat: dict[str, torch.Tensor],
        weights: list[float],
    ) -> torch.Tensor:
        """Σ wₛ · mean lossₛ · nₛ / Σ nₛ over the streams with wₛ > 0, EOS among each stream's labels."""
        labels = labels.flatten(1).to(logits.device)
        if labels.shape != predicted_ids.shape:
            raise ValueError(
                f"`labels` have {labels.shape[1]} tokens a sample and `{self.predicted_stream.argument}` has "
                f"{predicted_ids.shape[1]}; they must be the same."
            )
        eos = torch.full_like(labels[:, :1], self.predicted_stream.eos_id)
        if predicted_ids.shape[1]:  # a padded sample ends somewhere before: nothing follows its last position
            eos = eos.masked_fill(predicted_ids[:, -1:] == PADDING_ID, -100)
        terms = [(weights[-1], logits, torch.cat([labels.masked_fill(labels == PADDING_ID, -100), eos], dim=1))]
        for stream, stream_logits, weight in zip(
            self.condition_streams, condition_logits or (), weights, strict=False
        ):
            ids = F.pad(flat[stream.name], (0, 1), value=stream.eos_id)[:, : stream_logits.shape[1]]
            terms.append((weight, stream_logits, ids.masked_fill(ids == PADDING_ID, -100)))
        total, count = logits.new_zeros((), dtype=torch.float32), 0
        for weight, stream_logits, stream_labels in terms:
            if weight > 0:
                stream_logits = stream_logits.float().flatten(0, 1)
                total = total + weight * F.cross_entropy(stream_logits, stream_labels.flatten(), reduction="sum")
                count = count + (stream_labels != -100).sum()
        return total / count


class MusicLMSemanticModel(MusicLMStageModel):
    """CLAP tokens → semantic tokens."""

    config: MusicLMSemanticConfig
    config_class = MusicLMSemanticConfig
    default_temperature = 1.0


class MusicLMCoarseModel(MusicLMStageModel):
    """CLAP and semantic tokens → coarse acoustic tokens."""

    config: MusicLMCoarseConfig
    config_class = MusicLMCoarseConfig
    default_temperature = 0.95


class MusicLMFineModel(MusicLMStageModel):
    """CLAP and coarse tokens → fine acoustic tokens."""

    config: MusicLMFineConfig
    config_class = MusicLMFineConfig
    default_temperature = 0.4


for _model in (MusicLMSemanticModel, MusicLMCoarseModel, MusicLMFineModel):
    AutoModel.register(_model.config_class, _model, exist_ok=True)
