"""laion's CLAP checkpoint (HTSAT tiny, base or large, fused or not) as transformers' `ClapModel` and `ClapProcessor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor

from ..hub.reading import read_processor
from .checkpoint_files import read_state_dict
from .clap_names import clap_config, clap_rows, with_text_buffers
from .name_table import apply_name_table, meta_shapes, save_converted

DEFAULT_TOKENIZER = "roberta-base"
# Of laion's configs: every HTSAT reads mel bands from 50 Hz (transformers' default is 0) to 14 kHz.
MEL_RANGE = {"frequency_min": 50, "frequency_max": 14_000}
_STFT = "audio_branch.spectrogram_extractor.stft.conv_real.weight"


def convert_clap(
    checkpoint: str | Path,
    model_folder: str | Path,
    processor_folder: str | Path,
    tokenizer: str | Path = DEFAULT_TOKENIZER,
) -> None:
    """Writes a `ClapModel` and its `ClapProcessor`.

    Args:
        checkpoint: The original `.pt`.
        tokenizer: Hub id or folder of the RoBERTa tokenizer that the text tower was trained with.

    Raises:
        CheckpointError: The file is damaged or no such checkpoint.
    """
    tensors = read_state_dict(checkpoint)
    config: Any = ClapConfig(**clap_config(tensors, checkpoint))
    config.source = Path(checkpoint).name
    window = tensors[_STFT].shape[-1] if _STFT in tensors else 1024
    shapes = meta_shapes(ClapModel, config)
    tensors = with_text_buffers(tensors)
    converted = apply_name_table(tensors, clap_rows(tensors, shapes), shapes, checkpoint)
    save_converted(ClapModel, config, converted, model_folder)
    extractor = ClapFeatureExtractor(
        feature_size=config.audio_config.num_mel_bins,
        fft_window_size=window,
        frequency_min=MEL_RANGE["frequency_min"],
        frequency_max=MEL_RANGE["frequency_max"],
        truncation="fusion" if config.audio_config.enable_fusion else "rand_trunc",
    )
    processor = ClapProcessor(feature_extractor=extractor, tokenizer=read_processor(AutoTokenizer, tokenizer))
    processor.save_pretrained(processor_folder)
