"""The stages: token streams in, logits of the last stream out (MusicLM, section 3.2).

    each stream:  ids ─ steps (patterns.py) ─ embedding (+ learned position) ─┐      start₀ steps₀ EOS₀ start₁ … steps_S
                                                                              ├──→  decoder ──→ one head a codebook
    its start vector ─────────────────────────────────────────────────────────┘      ──→ logits, loss (loss.py)

`MusicLMStageModel` takes any list of streams. `MusicLMSemanticModel`, `MusicLMCoarseModel` and
`MusicLMFineModel` are the same model: they differ in the defaults of their configs. Stages are asked for tokens through `generate` (see generation.py).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, cast

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
from .inputs import check_ranges, collect_streams, complete_streams, num_predicted_frames
from .loss import condition_labels, predicted_labels, weighted_loss
from .masks import drop_conditions, forgetful_mask
from .patterns import lay
from .scores import ScoreBias
from .sequence import Heads, StartVectors, StreamSequenceMixin, logits_of_tokens
from .transformer import MusicLMDecoder, MusicLMLayerNorm, MusicLMUnitNorm


@dataclass
class MusicLMStageOutput(ModelOutput):
    """
    What a stage returns.

    Args:
        loss (scalar): with `labels`, the cross-entropy averaged over the predicted stream's tokens, EOS included.
        logits: of the predicted stream; position i predicts its token i, frame by frame. (batch, tokens + 1,
            codebook_size + 1) in the flat pattern, the last one what follows the tokens given; (batch, tokens,
            codebook_size + 1) in the others; and with `in_steps` (batch, steps + 1, columns, codebook_size + 1).
        past_key_values: the cache, if there is one.
        condition_logits: with `output_condition_logits`, the logits of each conditioning stream, as `logits`.
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


class MusicLMStageModel(  # type: ignore[misc]  # `push_to_hub` is ours
    PublishedModel, PreTrainedModel, StreamSequenceMixin, StageGenerationMixin
):
    """A causal decoder over an ordered list of token streams, the last one predicted."""

    config: MusicLMStageConfig
    config_class = MusicLMStageConfig
    base_model_prefix = "stage"
    _no_split_modules = ["MusicLMDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    # No cast and no int8 for it: see `ContinuousPositionBias`.
    _keep_in_fp32_modules = ["decoder.position_bias"]
    _keep_in_fp32_modules_strict = ["decoder.position_bias"]
    _supports_sdpa = True
    _supports_flex_attn = True  # in training: see `ScoreBias`
    _supports_attention_backend = True
    supports_gradient_checkpointing = True

    def __init__(self, config: MusicLMStageConfig):
        super().__init__(config)
        self.streams = config.token_streams
        #: those that training hides one by one
        self.optional_names = [stream["name"] for stream in config.streams or () if stream["optional"]]
        self.main_input_name = self.predicted_stream.argument
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
    def save_pretrained(self, *args, **kwargs) -> None:  # type: ignore[override]
        # The sampling settings go into config.json too: see `sampling_defaults`.
        settings = self.generation_config.to_diff_dict()
        self.config.sampling_defaults = {name: settings[name] for name in settings if name != "transformers_version"}
        super().save_pretrained(*args, **kwargs)

    default_temperature: ClassVar[float] = 1.0

    def get_input_embeddings(self) -> nn.Module:
        """The predicted stream's table (quantizers of weights ask for one)."""
        return self.embeddings[self.predicted_stream.name]

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings[self.predicted_stream.name] = value

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether a Trainer may say how many tokens a step has, so that each counts once however the step is cut.

        It counts `labels`, so not where conditioning streams' tokens are in the loss too: then each batch is a mean.
        """
        return not any((self.config.loss_weights or [])[:-1])

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

    def _collect(self, given: dict[str, torch.Tensor | None], in_steps: bool, filled: bool) -> dict[str, torch.Tensor]:
        """The ids of a call, by stream name: all streams, or beside a filled cache the predicted one alone."""
        owner, predicted = type(self).__name__, self.predicted_stream
        streams = [predicted] if filled else self.streams
        if filled:  # the others' keys and values are in the cache
            given = {
                name: ids for name, ids in given.items() if name not in {s.argument for s in self.condition_streams}
            }
        flat = collect_streams(given, streams, owner, in_steps)
        if filled and not flat:
            raise ValueError(f"`{predicted.argument}` is needed beside a filled cache.")
        if filled and predicted.pattern != "flat" and not in_steps:
            raise ValueError(
                f"Beside a filled cache {owner} takes `{predicted.argument}` step by step, as the pattern "
                f"{predicted.pattern!r} lays it: pass `in_steps=True`."
            )
        # in training on a GPU the collator has checked the ids: asking here would wait for the device
        if not torch.compiler.is_compiling() and not (self.training and self.device.type == "cuda"):
            check_ranges(flat, streams)
        if not filled:
            num_frames = num_predicted_frames(flat, streams, self.config.window_in_s)
            batch_size = next((len(token_ids) for token_ids in flat.values()), 1)
            flat = complete_streams(flat, streams, num_frames, batch_size, self.device)
        return {name: token_ids.to(self.device) for name, token_ids in flat.items()}

    # ----------------------------------------------------------------- forward

    def forward(
        self,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        append_condition_eos: bool = True,
        mask_condition_eos: bool = True,
        output_condition_logits: bool = False,
        in_steps: bool = False,
        hide_conditions: bool = True,
        **streams,
    ) -> MusicLMStageOutput:
        r"""
        Args:
            labels (batch, frames, codebooks) or flat: ids of the predicted stream, usually the same as its input; -100
                is ignored. In the flat pattern the model adds EOS, unless it is among them as one more column, as
                `CropCollator` has it.
            num_items_in_batch: labels of the whole step, by which the loss is divided in place of this batch's.
            past_key_values: a `DynamicCache` or `StaticCache` made with this model's config. If it is filled, the
                predicted stream's argument holds its new steps only, and the conditioning streams are not read.
            use_cache: return a cache; by default the config's setting, and `False` in training and with labels.
            append_condition_eos: append EOS to the conditioning streams in the flat pattern.
            mask_condition_eos: hide that EOS (and give it the id 0), as in training.
            output_condition_logits: return the conditioning streams' logits too.
            in_steps: the predicted stream is given, and its logits are returned, step by step as its pattern lays it.
            hide_conditions: in training, hide conditioning at random as `condition_dropout` says.
            streams: the streams that this stage has, as `{name}_token_ids`: (batch, frames, codebooks), or flat,
                (batch, tokens). -1 is padding. The predicted stream may be left out: the logits are then those of its
                first step. So may optional streams, which is the same as padding in all of their positions: their keys
                are hidden and their embeddings zero. In steps, the predicted stream is (batch, steps, columns), -1 where
                the pattern has no token. Anything else goes to the attention.

        Raises:
            ValueError: a stream is missing, unknown, of the wrong shape, or holds ids outside its codebook.
        """
        given = {name: streams.pop(name) for name in list(streams) if name.endswith("_token_ids")}
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        prefix: PrefixState | None = getattr(past_key_values, "prefix_state", None)
        past_length: int | torch.Tensor
        first_step: int | torch.Tensor

        predicted = self.predicted_stream
        flat = self._collect(given, in_steps, filled=prefix is not None)
        drops = self.training and hide_conditions and self.config.condition_dropout > 0
        if drops and prefix is None and self.condition_streams:
            flat |= drop_conditions(
                {stream.name: flat[stream.name] for stream in self.condition_streams},
                self.optional_names,
                self.config.condition_dropout,
            )
        own = flat[predicted.name]
        steps = own if own.ndim == 3 else lay(own, predicted)

        if prefix is None:
            laid = {stream.name: lay(flat[stream.name], stream) for stream in self.condition_streams}
            hidden_states, key_mask, sizes = self.embed_sequence(
                laid | {predicted.name: steps}, append_condition_eos, mask_condition_eos
            )
            past_length, first_step = 0, 0
            if past_key_values is not None:
                num_rows = sum(sizes[:-1]) + 1
                self.check_cached_prefix(num_rows, steps.shape[1])
                all_visible = bool(key_mask.all())
                prefix = PrefixState(num_rows, None if all_visible else key_mask[:, :num_rows])
                past_key_values.prefix_state = prefix  # type: ignore[attr-defined]
        else:
            past_length = cast(Cache, past_key_values).get_seq_length()
            if isinstance(past_length, torch.Tensor):
                past_length = past_length.clone()  # a static cache counts in place
            first_step = past_length - prefix.num_rows
            hidden_states = self.embed_steps(steps, predicted, first_step)
            first_step = first_step + 1  # that the first of these rows predicts
            key_mask, sizes = None, []

        attention_mask = self._attention_mask(hidden_states, key_mask, past_key_values, prefix, past_length)
        hidden_states = self.decoder(hidden_states, attention_mask, past_key_values, **streams)

        conditions: list[torch.Tensor] = []
        if sizes:
            *conditions, hidden_states = hidden_states.split(sizes, dim=1)
        logits = self.compute_logits(hidden_states, predicted, first_step)
        if not in_steps:
            logits = logits_of_tokens(logits, predicted, steps.shape[1])

        weights = self.config.loss_weights or [0.0] * len(self.condition_streams) + [1.0]
        condition_logits = None
        if sizes and (output_condition_logits or (labels is not None and any(weights[:-1]))):
            condition_logits = tuple(
                logits_of_tokens(self.compute_logits(states[:, :-1], stream), stream, states.shape[1] - 1)
                for states, stream in zip(conditions, self.condition_streams, strict=True)
            )
        loss = None
        if labels is not None:
            if in_steps:
                raise ValueError("`labels` are compared with tokens; they do not go with `in_steps`.")
            terms = [(weights[-1], logits, predicted_labels(labels.to(own.device), own, predicted))]
            for stream, its_logits, weight in zip(
                self.condition_streams, condition_logits or (), weights, strict=False
            ):
                terms.append((weight, its_logits, condition_labels(flat[stream.name], stream, its_logits.shape[1])))
            loss = weighted_loss(terms, num_items_in_batch)
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
    ) -> torch.Tensor | ScoreBias:
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
            kept = forgetful_mask(batch, length, self.config.forgetful_mask_prob, self.device)
            key_mask = kept if key_mask is None else key_mask & kept

        if prefix is None:
            table = self.decoder.bias_table(num_keys)
        else:
            if prefix.bias_table is None or self._table_reach(prefix.bias_table) < num_keys:
                prefix.bias_table = self.decoder.bias_table(-(-num_keys // 256) * 256)
            table = prefix.bias_table
        return self.decoder.attention_mask(positions, num_keys, key_mask, table)

    def check_cached_prefix(self, num_rows: int, num_steps: int) -> None:
        """A cache cannot serve rows that later ones still change."""
        if self.config.non_causal_prefix_size > num_rows + num_steps:
            raise ValueError(
                f"A cache needs the non-causal prefix ({self.config.non_causal_prefix_size} positions) within the first "
                f"call's {num_rows + num_steps}; pass `use_cache=False`."
            )

    def _table_reach(self, table: torch.Tensor) -> int:
        return table.shape[1] - max(self.config.non_causal_prefix_size - 1, 0)


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


for _model in (MusicLMStageModel, MusicLMSemanticModel, MusicLMCoarseModel, MusicLMFineModel):
    AutoModel.register(_model.config_class, _model, exist_ok=True)
