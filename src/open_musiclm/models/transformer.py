"""The causal decoder that the three stages share (open-musiclm's transformer, after AudioLM).

    hidden states ── gradient shrink ──┐
      layer:  x + attention(x)         │  multi-query, L2-normed queries and keys; queries from the normed input,
              x + feed_forward(x)      │  keys and values from the input as it was before the norm
    final norm ────────────────────────┘  feed-forward: linear → causal depthwise conv → gated GELU → norm → linear

One additive attention mask (position bias + causality + hidden keys) is made once and serves every layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration import MusicLMStageConfig
from .precision import KeepsFloat32
from .scores import ScoreBias, score_bias

#: what scores are multiplied by: queries and keys have unit length before their learned scales
ATTENTION_SCALE = 8.0


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """query (batch, heads, q, head_dim), key and value (batch, 1, kv, head_dim) → (batch, q, heads, head_dim)."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling  # (batch, heads, q, kv)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MusicLMLayerNorm(nn.Module):
    """Layer norm with a learned gain and no bias."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(hidden_states, self.weight.shape, self.weight, None, self.eps)


class MusicLMUnitNorm(nn.Module):
    """L2 norm over the head, then a learned scale."""

    def __init__(self, head_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return F.normalize(hidden_states, dim=-1) * self.weight


class MusicLMAttention(nn.Module):
    """Multi-query self-attention."""

    is_causal = True

    def __init__(self, config: MusicLMStageConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)
        self.q_norm = MusicLMUnitNorm(config.head_dim)
        self.k_norm = MusicLMUnitNorm(config.head_dim)

    def forward(
        self,
        normed_states: torch.Tensor,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | ScoreBias | None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        batch, length, _ = hidden_states.shape
        query = self.q_norm(self.q_proj(normed_states).view(batch, length, -1, self.head_dim)).transpose(1, 2)
        key = self.k_norm(self.k_proj(hidden_states)).unsqueeze(1)  # (batch, 1, length, head_dim)
        value = self.v_proj(hidden_states).unsqueeze(1)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        if isinstance(attention_mask, ScoreBias):
            output = attention_mask.attend(query, key, value, ATTENTION_SCALE)
        else:
            name = self.config._attn_implementation
            name = "sdpa" if name == "flex_attention" else name  # with an additive mask
            attention = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
            dropout = self.config.attention_dropout if self.training else 0.0
            output, _ = attention(
                self, query, key, value, attention_mask, scaling=ATTENTION_SCALE, dropout=dropout, **kwargs
            )
        output = self.o_proj(output.reshape(batch, length, -1))
        return F.dropout(output, p=self.config.attention_dropout, training=self.training)


def causal_convolution(inner: torch.Tensor, taps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Depthwise, zeros on the left: (samples, rows, channels) and (channels,) of each tap, the oldest first → the same."""
    output = inner * taps[-1]
    for back, tap in enumerate(reversed(taps[:-1]), start=1):
        output[:, back:].addcmul_(inner[:, :-back], tap)
    return output


class MusicLMFeedForward(nn.Module):
    """Linear → causal depthwise convolution over time (if the config asks for it) → gated GELU → norm → linear."""

    def __init__(self, config: MusicLMStageConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        inner = config.inner_size
        self.up_proj = nn.Linear(config.hidden_size, 2 * inner, bias=False)
        self.conv = (
            nn.Conv1d(2 * inner, 2 * inner, config.conv_kernel_size, groups=2 * inner, bias=False)
            if config.use_conv_feed_forward
            else None
        )
        self.inner_norm = MusicLMLayerNorm(inner, config.layer_norm_eps)
        self.down_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor, past_key_values: Cache | None = None) -> torch.Tensor:
        inner = self.up_proj(hidden_states)  # (batch, length, 2 · inner)
        if past_key_values is None and inner.is_cuda and type(self.conv) is nn.Conv1d:
            # in place of two transposes and a depthwise kernel: passes that the compiler joins with those around them
            taps = self.conv.weight[:, 0].T.to(inner.dtype).contiguous()
            inner = causal_convolution(inner, taps.unbind(0))
        elif self.conv is not None:
            inner = self._convolve(self.conv, inner.transpose(1, 2), past_key_values).transpose(1, 2)
        value, gate = inner.chunk(2, dim=-1)
        inner = self.inner_norm(value * F.gelu(gate))
        inner = F.dropout(inner, p=self.config.hidden_dropout, training=self.training)
        return self.down_proj(inner)

    def _convolve(self, conv: nn.Conv1d, inner: torch.Tensor, past_key_values: Cache | None) -> torch.Tensor:
        """(batch, channels, length), with the last inputs of the cache or zeros on the left."""
        length = inner.shape[-1]
        needed = length + self.config.conv_kernel_size - 1
        if past_key_values is not None:
            inner = past_key_values.update_conv_state(
                inner, self.layer_idx, conv_kernel_size=self.config.conv_kernel_size
            )[..., -needed:]
        return conv(F.pad(inner, (needed - inner.shape[-1], 0)))


class MusicLMDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: MusicLMStageConfig, layer_idx: int):
        super().__init__()
        self.self_attn_norm = MusicLMLayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = MusicLMAttention(config, layer_idx)
        self.mlp_norm = MusicLMLayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MusicLMFeedForward(config, layer_idx)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | ScoreBias | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attn(
            self.self_attn_norm(hidden_states), hidden_states, attention_mask, past_key_values, **kwargs
        )
        return hidden_states + self.mlp(self.mlp_norm(hidden_states), past_key_values)


class ContinuousPositionBias(KeepsFloat32):
    """An MLP of the plain distance (Liu et al. 2021, Swin Transformer V2, without the logarithm).

    It stays in float32 whatever the model's precision: bfloat16 has no 257, and a first weight rounded to it moves the
    bias of far keys by a tenth.
    """

    def __init__(self, config: MusicLMStageConfig):
        super().__init__()
        size = config.hidden_size // 2
        self.layers = nn.ModuleList(
            [
                nn.Linear(1, size),
                nn.Linear(size, size),
                nn.Linear(size, size),
                nn.Linear(size, config.num_attention_heads),
            ]
        )

    def forward(self, distances: torch.Tensor) -> torch.Tensor:
        *inner, last = self.layers
        hidden = distances.unsqueeze(-1).to(next(self.parameters()).dtype)
        with torch.autocast(distances.device.type, enabled=False):
            for layer in inner:
                hidden = F.silu(layer(hidden))
            return last(hidden).T


class BucketedPositionBias(nn.Module):
    """Causal buckets of the distance (Raffel et al. 2020, T5): exact when near, logarithmic when far."""

    def __init__(self, config: MusicLMStageConfig):
        super().__init__()
        self.max_distance = config.relative_attention_max_distance
        self.buckets = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)

    def forward(self, distances: torch.Tensor) -> torch.Tensor:
        num_buckets = self.buckets.num_embeddings
        num_exact = num_buckets // 2
        distances = distances.clamp(min=0)
        far = torch.log(distances.clamp(min=1) / num_exact) / math.log(self.max_distance / num_exact)
        far = num_exact + (far * (num_buckets - num_exact)).long()
        bucket = torch.where(distances < num_exact, distances, far.clamp(max=num_buckets - 1))
        return self.buckets(bucket).T


POSITION_BIASES: dict[str, type[nn.Module]] = {"continuous": ContinuousPositionBias, "t5": BucketedPositionBias}


def _shrink_gradient(hidden_states: torch.Tensor, alpha: float) -> torch.Tensor:
    """The same values, `alpha` times the gradient (Ding et al. 2021, CogView, section 2.4)."""
    constant = hidden_states.detach()
    return constant + alpha * (hidden_states - constant)


class MusicLMDecoder(nn.Module):
    """Embedded sequence in, normed hidden states out."""

    def __init__(self, config: MusicLMStageConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            [MusicLMDecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
        )
        bias_class = POSITION_BIASES.get(config.position_bias_type)
        self.position_bias = bias_class(config) if bias_class is not None else None
        self.norm = MusicLMLayerNorm(config.hidden_size, config.layer_norm_eps)
        self.gradient_checkpointing = False

    def bias_table(self, length: int) -> torch.Tensor | None:
        """Bias of each distance 0 … length - 1: (heads, length), or `None` without a position bias.

        A visible key is never behind its query but inside the non-causal prefix, whose `size - 1` negative distances
        stand at the end of the table: index -d is the distance -d.
        """
        if self.position_bias is None:
            return None
        device = self.norm.weight.device
        distances = torch.arange(length, device=device)
        behind = self.config.non_causal_prefix_size - 1
        if behind > 0:
            distances = torch.cat([distances, torch.arange(-behind, 0, device=device)])
        return self.position_bias(distances)

    @property
    def adds_to_scores(self) -> bool:
        """Whether masks are left out for [`ScoreBias`]: in training, with the flex attention of PyTorch."""
        chosen = self.config._attn_implementation == "flex_attention"
        return chosen and self.training and self.config.attention_dropout == 0

    def attention_mask(
        self,
        query_positions: torch.Tensor,
        num_keys: int,
        key_mask: torch.Tensor | None,
        bias_table: torch.Tensor | None,
    ) -> torch.Tensor | ScoreBias:
        """The additive mask of every layer: position bias, causality, hidden keys.

        Args:
            query_positions: (q,) positions in the sequence of the rows that ask.
            num_keys: keys there are, from position 0 on.
            key_mask: (batch, num_keys) bool, False for a hidden key; `None` if none is.
            bias_table: what [`bias_table`] returns.

        Returns:
            (batch or 1, heads or 1, q, num_keys) float; in training with flex attention what makes no such tensor.
        """
        prefix = self.config.non_causal_prefix_size
        if self.adds_to_scores and len(query_positions) == num_keys:  # a sequence that attends to itself
            return score_bias(num_keys, prefix, key_mask, bias_table, query_positions.device)
        keys = torch.arange(num_keys, device=query_positions.device)
        visible = keys[None, :] <= query_positions[:, None]  # (q, keys)
        if prefix > 0:
            visible = visible | ((query_positions < prefix)[:, None] & (keys < prefix)[None, :])
        visible = visible[None, None]
        if key_mask is not None:
            visible = visible & key_mask[:, None, None, :]
        dtype = self.norm.weight.dtype
        blocked = torch.finfo(dtype).min
        if bias_table is None:
            return torch.zeros((), dtype=dtype, device=keys.device).masked_fill(~visible, blocked)
        distances = query_positions[:, None] - keys[None, :]
        if prefix > 1:  # negative distances count from the end of the table
            distances = distances.clamp(min=1 - prefix)
            distances = torch.where(distances < 0, distances + bias_table.shape[1], distances)
        bias = bias_table[:, distances.clamp(min=0)].unsqueeze(0)  # (1, heads, q, keys)
        return bias.to(dtype).masked_fill(~visible, blocked)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | ScoreBias,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """(batch, length, hidden_size) → (batch, length, hidden_size)."""
        if hidden_states.requires_grad:
            hidden_states = _shrink_gradient(hidden_states, self.config.gradient_shrink)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, past_key_values, **kwargs)
        return self.norm(hidden_states)
