"""A stage's weights as decoding wants them.

- Queries, keys and values come out of one product. Queries are made from the normed input and then brought to unit
  length, so of the norm only its gain and its mean stay, and both are linear: they are folded into the weights.
- What multiplies the scores (8 and the two learned scales) is folded into the scale of the keys, which are kept scaled.
- On a CPU the products use oneDNN's own layout, laid out once. It reads weights at the memory's full speed for one row
  and for many, in float32 and bfloat16; the general product reaches a fraction of it.

Packed weights are made on first use, kept as long as the model lives, and made again when a parameter was changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from ..models.transformer import ATTENTION_SCALE, MusicLMDecoderLayer
from .interface import Stage
from .known import KnownSteps, KnownWindows

#: rows that oneDNN lays the weights out for: a layout for a few rows serves one and hundreds as well, and for one row it
#: is faster than the one oneDNN picks for a single row
LAYOUT_ROWS = 16
#: for one row or two oneDNN takes other kernels, which read the weights more slowly than the one for so many rows
FEWEST_ROWS = 4
#: up to so many rows int8 weights are faster than bfloat16 ones (tests/benchmarks/products.py)
INT8_ROWS = 2
#: the int8 product reads its weights so many columns at a time
INT8_COLUMNS = 32


class PackedLinear:
    """A product with a fixed weight: `linear(x)`, and `linear.plus(x, residual)`.

    Args:
        weight: (out, in).
        repack: lay it out for the CPU; else, or elsewhere, it is used as it is.
        int8: round each row to 255 steps. On a CPU the rounded weights are read for a row or two of x, on a GPU by the
            Triton kernels, and the other products use what they stand for.
    """

    def __init__(self, weight: torch.Tensor, repack: bool = True, int8: bool = False):
        self.weight = weight.detach().contiguous()
        self.packed: torch.Tensor | None = None
        self.rounded: torch.Tensor | None = None
        self.for_cpu = repack and weight.device.type == "cpu"
        if int8:
            self.rounded, self.scale = round_rows(self.weight)
            if self.for_cpu:
                self.padding = -self.weight.shape[1] % INT8_COLUMNS
                self.rounded, self.scale = F.pad(self.rounded, (0, self.padding)), self.scale.to(self.weight.dtype)
            else:
                self.weight = (self.rounded * self.scale[:, None]).to(self.weight.dtype)
        if self.for_cpu and _has_onednn(weight.dtype):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, LAYOUT_ROWS)
            self.weight = self.weight.new_empty(0)  # a joined weight need not be kept twice

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in) → (batch, out)."""
        if self._reads_rounded(x):
            x = F.pad(x, (0, self.padding)) if self.padding else x
            return torch.ops.aten._weight_int8pack_mm.default(x, self.rounded, self.scale)
        if self.packed is None:
            return F.linear(x, self.weight)
        num_rows = len(x)
        if 2 * num_rows <= FEWEST_ROWS:  # the same rows again: cheaper than the kernel for fewer
            x = torch.cat([x] * (FEWEST_ROWS // num_rows))
        return torch.ops.mkldnn._linear_pointwise.default(x, self.packed, None, "none", [], "")[:num_rows]

    def plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The product added to `residual` (batch, out)."""
        if self._reads_rounded(x):
            return self(x).add_(residual)
        if self.packed is None:
            return torch.addmm(residual, x, self.weight.T)
        if 2 * len(x) > FEWEST_ROWS:
            return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, None, "add")
        return self(x).add_(residual)

    def _reads_rounded(self, x: torch.Tensor) -> bool:
        return self.rounded is not None and self.for_cpu and len(x) <= INT8_ROWS


def round_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (…, out, in) → int8, and the scale (…, out) float32 of each row: weight ≈ rounded · scale."""
    scale = weight.abs().amax(dim=-1).float().clamp_(min=1e-12) / 127
    return (weight / scale[..., None]).round_().to(torch.int8), scale


def _has_onednn(dtype: torch.dtype) -> bool:
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@dataclass
class PackedLayer:
    """One decoder layer."""

    qkv: PackedLinear  #: input (not normed) → queries (heads · head_dim), key, value
    query_scale: torch.Tensor  #: (head_dim) what a unit query would be multiplied by, 8 included; keys carry it here
    key_scale: torch.Tensor  #: (head_dim) what a unit key is multiplied by: its own learned scale and the queries'
    o_proj: PackedLinear
    mlp_norm: torch.Tensor  #: (hidden_size)
    up_proj: PackedLinear
    conv: list[torch.Tensor]  #: taps, the oldest first, (2 · inner) each; none without the convolution
    inner_norm: torch.Tensor  #: (inner)
    down_proj: PackedLinear


def fold_qkv(layer: MusicLMDecoderLayer) -> torch.Tensor:
    """[queries without the norm's rest; key; value] of the plain input: ((heads + 2) · head_dim, hidden_size).

    norm(x) = (x - mean(x)) · gain / deviation(x). The division cancels when a query is brought to unit length; the rest
    is x times (I - 1/n) diag(gain).
    """
    attention = layer.self_attn
    queries = attention.q_proj.weight.double() * layer.self_attn_norm.weight.double()
    queries = queries - queries.mean(dim=1, keepdim=True)
    dtype = attention.q_proj.weight.dtype
    return torch.cat([queries.to(dtype), attention.k_proj.weight, attention.v_proj.weight])


def _pack_layer(layer: MusicLMDecoderLayer, repack: bool, int8: bool) -> PackedLayer:
    attention, mlp = layer.self_attn, layer.mlp
    query_scale = ATTENTION_SCALE * attention.q_norm.weight.detach()
    return PackedLayer(
        qkv=PackedLinear(fold_qkv(layer), repack, int8),
        query_scale=query_scale,
        key_scale=query_scale * attention.k_norm.weight.detach(),
        o_proj=PackedLinear(attention.o_proj.weight, repack, int8),
        mlp_norm=layer.mlp_norm.weight.detach(),
        up_proj=PackedLinear(mlp.up_proj.weight, repack, int8),
        conv=[] if mlp.conv is None else list(mlp.conv.weight.detach()[:, 0].T.contiguous()),
        inner_norm=mlp.inner_norm.weight.detach(),
        down_proj=PackedLinear(mlp.down_proj.weight, repack, int8),
    )


class PackedStage:
    """All a decoding step reads of a stage; see [`PackedLinear`] for `repack` and `int8`."""

    def __init__(self, model, repack: bool = True, int8: bool = False):
        config, stream = model.config, model.predicted_stream
        self.dtype = model.decoder.norm.weight.dtype
        self.norm_eps = config.layer_norm_eps
        self.num_heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.num_codebooks, self.codebook_size = stream.num_codebooks, stream.codebook_size
        self.vocabulary_size = stream.codebook_size + 1
        self.layers = [_pack_layer(layer, repack, int8) for layer in model.decoder.layers]
        self.num_taps = len(self.layers[0].conv)
        self.conv_channels = 2 * config.intermediate_size if self.num_taps else 0
        self.norm = model.decoder.norm.weight.detach()
        self.head_table = model.heads[stream.name].detach()  # (codebooks, vocabulary, hidden_size)
        int8 = int8 and self.layers[0].qkv.for_cpu  # on a GPU a head is a thousandth of what a step reads
        flat = stream.pattern == "flat"
        self.heads = [PackedLinear(head, repack, int8) for head in self.head_table] if flat else []
        #: in a pattern of several tokens a step all heads in one product
        self.joint_head = None if flat else PackedLinear(self.head_table.flatten(0, 1), repack, int8)
        self.embedding_table = model.embeddings[stream.name].weight.detach()
        self.embeddings = [  # one view a codebook: an id of codebook q is a row of the q-th
            self.embedding_table[q * stream.codebook_size :][: stream.codebook_size]
            for q in range(stream.num_codebooks)
        ]
        self.positions = (
            None if model.position_embeddings is None else model.position_embeddings[stream.name].weight.detach()
        )
        self.recordings: list = []  # recorded steps that wait for their next window (cuda_graph.py)
        self.kernel_weights: Any = None  # what Triton kernels read besides, once they were asked for (triton_step.py)
        self.known_windows = KnownWindows()  # which prefills come up again (cuda_graph.py)
        self.known_steps = KnownSteps()  # which steps are right and fastest (recorded_step.py)
        self._bias_of: Callable[[int], torch.Tensor | None] = model.decoder.bias_table
        self._bias: torch.Tensor | None = None
        self._reversed_bias: torch.Tensor | None = None
        self._reach = 0

    def bias_table(self, length: int) -> torch.Tensor | None:
        """`MusicLMDecoder.bias_table` of at least `length` distances, computed once."""
        if self._reach < length:
            self._reach = -(-length // 512) * 512
            self._bias = self._bias_of(self._reach)
            if self._bias is not None:  # negative distances stand behind `reach`
                self._reversed_bias = self._bias[:, : self._reach].flip(1).to(self.dtype)
        return self._bias

    def reversed_bias(self, length: int) -> torch.Tensor | None:
        """Position bias of the distances length - 1 … 0, in this order: (heads, length); `None` without one.

        So the biases of the keys 0 … p for a query at p are the last p + 1 columns.
        """
        self.bias_table(length)
        return None if self._reversed_bias is None else self._reversed_bias[:, self._reach - length :]


_packed: WeakKeyDictionary[nn.Module, tuple[tuple, PackedStage]] = WeakKeyDictionary()


def pack_stage(model: Any, int8: bool = False) -> PackedStage:
    """The packed weights of a stage; those of an earlier call if no parameter was replaced or written since."""
    state = (int8,) + tuple(
        (p.data_ptr(), p.dtype, p.device, None if p.is_inference() else p._version) for p in model.parameters()
    )
    kept = _packed.get(model)
    if kept is None or kept[0] != state:
        _packed.pop(model, None)
        with torch.no_grad():
            kept = (state, PackedStage(model, int8=int8))
        _packed[model] = kept
    return kept[1]


def forget_packed(model: nn.Module) -> None:
    """Pack a stage anew next time: what is written through `parameter.data` (as PEFT merges adapters) is not noticed."""
    _packed.pop(model, None)


def why_not_packable(stage: Stage) -> str | None:
    """`None` if the stage is made of plain modules with weights of one dtype on one device, or what stands against it."""
    plain = {nn.Linear, nn.Conv1d, nn.Embedding}
    for module in stage.modules():
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
            return f"does not call the hooks that a {type(module).__name__} of this stage has"
        if type(module) not in plain and (isinstance(module, tuple(plain)) or not _is_ours(module)):
            return f"knows plain weights only, and this stage has a {type(module).__module__}.{type(module).__name__}"
    # the position bias may be kept in float32: it is computed once, and rounded with the table
    weights = [p for name, p in stage.named_parameters() if not name.startswith("decoder.position_bias.")]
    if len({(p.device, p.dtype) for p in weights}) > 1:
        return "needs weights of one dtype on one device"
    return "needs weights in memory" if weights[0].device.type == "meta" else None


def _is_ours(module: nn.Module) -> bool:
    containers = nn.ModuleList | nn.ModuleDict | nn.ParameterDict | nn.ParameterList
    return isinstance(module, containers) or type(module).__module__.startswith(__package__.split(".")[0] + ".")
