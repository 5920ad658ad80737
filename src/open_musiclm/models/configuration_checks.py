"""What the numbers of a config may be: a config file comes from anywhere, and a model is made of what it says."""

from __future__ import annotations

from typing import Any

from ..given import as_number, shown

#: seconds: a day
LONGEST_WINDOW_IN_S = 86_400.0
#: an endless loop, or more memory than there is, lies behind every number beyond these
RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "stage": {
        "hidden_size": (1, 1 << 20),
        "num_hidden_layers": (1, 1 << 12),
        "num_attention_heads": (1, 1 << 12),
        "head_dim": (1, 1 << 12),
        "intermediate_size": (1, 1 << 22),
        "conv_kernel_size": (1, 1 << 12),
        "relative_attention_num_buckets": (2, 1 << 16),
        "relative_attention_max_distance": (2, 1 << 24),
        "max_position_embeddings": (1, 1 << 24),
        "non_causal_prefix_size": (0, 1 << 24),
        "gradient_shrink": (0.0, 1.0),
        "forgetful_mask_prob": (0.0, 1.0),
        "attention_dropout": (0.0, 1.0),
        "hidden_dropout": (0.0, 1.0),
        "layer_norm_eps": (0.0, 1.0),
        "window_in_s": (1e-3, LONGEST_WINDOW_IN_S),
        "window_stride_in_s": (1e-3, LONGEST_WINDOW_IN_S),
    },
    "clap quantizer": {
        "codebook_size": (1, 1 << 20),
        "num_quantizers": (1, 1 << 12),
        "embedding_dim": (1, 1 << 20),
        "window_in_s": (1e-3, LONGEST_WINDOW_IN_S),
    },
    "semantic quantizer": {
        "codebook_size": (1, 1 << 20),
        "num_codebooks": (1, 1 << 12),
        "feature_dim": (1, 1 << 20),
        "layer": (-(1 << 12), 1 << 12),
        "frame_rate": (1e-3, 1e6),
        "sampling_rate": (1, 1 << 22),
        "num_edge_frames": (0, 1 << 12),
    },
    "spectral codec": {
        "sampling_rate": (1, 1 << 22),
        "fft_size": (16, 1 << 20),
        "fft_hop": (1, 1 << 18),
        "spectra_per_frame": (1, 1 << 10),
        "hidden_size": (1, 1 << 16),
        "num_decoder_blocks": (0, 1 << 10),
        "codebook_size": (2, 1 << 20),
        "codebook_dim": (1, 1 << 16),
        "num_codebooks": (1, 1 << 10),
        "num_phase_iterations": (0, 1000),
    },
}


def check_ranges(config: Any, kind: str) -> None:
    """Refuse what is no number that a model has; `None` is one where a config begins with it.

    Raises:
        ValueError: one is no finite number, no whole one where its range is one of whole numbers, or out of its range.
    """
    for name, (least, most) in RANGES[kind].items():
        value = getattr(config, name)
        if value is None and getattr(type(config), name, 0) is None:
            continue
        whole = isinstance(least, int)
        needed = f"a {'whole ' if whole else ''}number from {least:g} to {most:g}"
        number = as_number(f"`{name}`", value, needed)
        if not least <= number <= most or (whole and not isinstance(value, int)):
            raise ValueError(f"`{name}` must be {needed}, got {shown(value)}.")
