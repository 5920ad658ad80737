"""The frozen networks of a pipeline: CLAP, EnCodec and the semantic encoder, from the Hub, a folder, or original files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModel, ClapFeatureExtractor, ClapModel, ClapProcessor, EncodecModel, PreTrainedModel

from ..hub.reading import read_pretrained, read_processor
from .checkpoint_error import CheckpointError
from .clap_conversion import MEL_RANGE, convert_clap
from .encodec_conversion import convert_encodec

# RoBERTa's. transformers' ClapTextConfig has 1e-12, and so have the configs on the Hub.
_TEXT_NORM_EPS = 1e-5


def bring_clap(source: str, folder: Path, tokenizer: str) -> list[str]:
    """Writes `clap` and `clap_processor` under `folder`; returns notes for the user.

    A CLAP from the Hub is set to what laion's own code computes (mel bands from 50 Hz, layer norm 1e-5), since an
    Open-MusicLM quantizer was fitted to that.
    """
    if Path(source).is_file():
        convert_clap(source, folder / "clap", folder / "clap_processor", tokenizer)
        return []
    model = read_pretrained(ClapModel, source, whole=False, dtype="auto")
    processor = read_processor(ClapProcessor, source)
    notes = []
    text_config: Any = model.config.text_config
    if text_config.layer_norm_eps != _TEXT_NORM_EPS:
        notes.append(f"clap: text layer norm {text_config.layer_norm_eps:g} → {_TEXT_NORM_EPS:g}, as laion")
        text_config.layer_norm_eps = _TEXT_NORM_EPS
    settings = processor.feature_extractor.to_dict()
    changed = {key: value for key, value in MEL_RANGE.items() if settings.get(key) != value}
    if changed:
        settings = {
            key: value for key, value in settings.items() if key not in ("feature_extractor_type", "processor_class")
        }
        processor.feature_extractor = ClapFeatureExtractor(**(settings | changed))
        notes.append(f"clap: mel bands {', '.join(f'{key}={value}' for key, value in changed.items())}, as laion")
    _record_source(model, source)
    model.save_pretrained(folder / "clap")
    processor.save_pretrained(folder / "clap_processor")
    return notes


def bring_codec(source: str, folder: Path) -> None:
    """Writes `codec` under `folder`."""
    if Path(source).is_file():
        convert_encodec(source, folder / "codec")
    else:
        codec = read_pretrained(EncodecModel, source, whole=False, dtype="auto")
        _record_source(codec, source)
        codec.save_pretrained(folder / "codec")


def bring_semantic_encoder(source: str, folder: Path) -> None:
    """Writes `semantic_encoder` under `folder`; never runs code that the source brings along.

    Raises:
        CheckpointError: The source is a single file, or needs remote code (as MERT-v1 does).
    """
    if Path(source).is_file():
        raise CheckpointError(f"{source}: a semantic encoder is given as a Hub id or a folder with its config.json")
    encoder = read_pretrained(AutoModel, source, whole=False, dtype="auto")
    _record_source(encoder, source)
    encoder.save_pretrained(folder / "semantic_encoder")


def _record_source(model: PreTrainedModel, source: str) -> None:
    """Keeps the Hub id in the config, for the model card; a folder's own record stays."""
    if not Path(source).exists():
        model.config.source = source
