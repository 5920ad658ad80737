"""Converts what there is of an Open-MusicLM model, one component after the other, into one folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import EncodecModel

from ..hub.model_card import PIPELINE_PARTS
from ..tokenizers.codec import codec_fingerprint
from .assemble import describe_folder, finish_pipeline, upload_folder
from .checkpoint_folder import CheckpointFiles, find_checkpoint_files
from .clap_conversion import DEFAULT_TOKENIZER
from .component_conversion import convert_clap_quantizer, convert_semantic_quantizer, convert_stage
from .frozen_parts import bring_clap, bring_codec, bring_semantic_encoder
from .original_config import STAGES, original_stream, read_original_config
from .output_folder import whole_folder


@dataclass
class ConversionRequest:
    """What to convert.

    Args:
        checkpoint_dir: Folder with the original's files.
        config: The model config JSON, if it is not in that folder, or one of several.
        given: Component → its file, for those outside the folder or among several in it.
        clap, codec, semantic_encoder: The frozen parts: a Hub id, a folder, or (the first two) an original file.
        clap_tokenizer: Hub id or folder, for an original CLAP file.
        dtype: Name of a dtype to cast the stages' weights to; None keeps every bit.
    """

    checkpoint_dir: Path | None = None
    config: Path | None = None
    given: dict[str, Path | None] = field(default_factory=dict)
    clap: str | None = None
    clap_tokenizer: str = DEFAULT_TOKENIZER
    codec: str | None = None
    semantic_encoder: str | None = None
    dtype: str | None = None

    @property
    def inputs(self) -> list[str | Path | None]:
        """All that is read: files, folders and Hub ids."""
        frozen = (self.clap, self.clap_tokenizer, self.codec, self.semantic_encoder)
        return [self.checkpoint_dir, self.config, *self.given.values(), *frozen]


def convert_checkpoints(
    request: ConversionRequest,
    output: Path,
    overwrite: bool = False,
    repo_id: str | None = None,
    private: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Writes `output`, a folder of parts that load by `from_pretrained`, and with the frozen parts a whole pipeline.

    Args:
        overwrite: Replace what an earlier conversion wrote there.
        repo_id, private: Upload the result to this repository.
        say: Prints a line.

    Raises:
        CheckpointError: Something cannot be converted, or the output is not to be written; nothing is left behind.
    """
    with whole_folder(output, overwrite, request.inputs, say) as folder:
        files = find_checkpoint_files(request.checkpoint_dir, request.config, request.given)
        say(f"config: {files.config}")
        for note in files.notes:
            say(note)
        missing = convert_parts(files, folder, request, say)
        describe_folder(folder, title=output.name)
    for part in missing:
        say(f"not there: {part}")
    say(f"written: {output}")
    if repo_id is not None:
        say(f"uploaded: {upload_folder(output, repo_id, private)}")


def convert_parts(
    files: CheckpointFiles, folder: Path, request: ConversionRequest, say: Callable[[str], None]
) -> list[str]:
    """Converts everything into `folder`, codebooks first since the stages record theirs; returns what is missing."""
    dtype = getattr(torch, request.dtype) if request.dtype else None
    original = read_original_config(files.config)
    fingerprints: dict[str, str | None] = {}
    quantizers = {
        "clap_quantizer": ("clap", convert_clap_quantizer),
        "semantic_quantizer": ("semantic", convert_semantic_quantizer),
    }
    for component, (stream, convert_quantizer) in quantizers.items():
        if component in files.components:
            path = files.components[component]
            fingerprints[stream], proof = convert_quantizer(path, original, folder / component, say)
            say(f"{path.name} → {component} ({fingerprints[stream]}); {proof}")
    if request.codec:
        bring_codec(request.codec, folder)
        say(f"{request.codec} → codec")
        fingerprints |= codec_fingerprints(folder / "codec", original)
    for stage in STAGES:
        component = f"{stage}_model"
        if component in files.components:
            path = files.components[component]
            proof = convert_stage(stage, path, original, folder / component, fingerprints, dtype, say)
            say(f"{path.name} → {component}; {proof}")
    if request.clap:
        for note in bring_clap(request.clap, folder, request.clap_tokenizer):
            say(note)
        say(f"{request.clap} → clap, clap_processor")
    if request.semantic_encoder:
        bring_semantic_encoder(request.semantic_encoder, folder)
        say(f"{request.semantic_encoder} → semantic_encoder")
    missing = files.missing + [f"{part} (--{part})" for part in ("clap", "codec") if not getattr(request, part)]
    if all((folder / part).is_dir() for part in (*PIPELINE_PARTS, *(f"{stage}_model" for stage in STAGES))):
        finish_pipeline(folder)
        say("assembled: load it with MusicLMPipeline.from_pretrained")
    return missing


def codec_fingerprints(folder: Path, original: dict) -> dict[str, str | None]:
    """Of the codebooks that the coarse and the fine stage use."""
    codec, first, found = EncodecModel.from_pretrained(folder), 0, {}
    for name in ("coarse", "fine"):
        last = first + original_stream(original, name).num_codebooks
        found[name] = codec_fingerprint(codec, first, last)
        first = last
    return found
