"""The original EnCodec 24 kHz state dict as transformers' `EncodecModel`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import EncodecConfig, EncodecModel

from .checkpoint_files import read_state_dict
from .encodec_names import encodec_config, encodec_rows
from .name_table import apply_name_table, meta_shapes, save_converted


def convert_encodec(checkpoint: str | Path, folder: str | Path) -> None:
    """Writes an `EncodecModel`.

    Raises:
        CheckpointError: The file is damaged or no such checkpoint.
    """
    tensors = read_state_dict(checkpoint)
    config: Any = EncodecConfig(**encodec_config(tensors, checkpoint))
    config.source = Path(checkpoint).name
    shapes = meta_shapes(EncodecModel, config)
    converted = apply_name_table(tensors, encodec_rows(tensors), shapes, checkpoint)
    save_converted(EncodecModel, config, converted, folder)
