"""Put the trained parts together as a MusicLMPipeline of at most 25 MB in a wheel: weights in float16, codebooks in float32."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path

import torch
from recipe import Recipe
from train_stages import STAGES
from transformers import ClapModel, ClapProcessor, HubertModel

from open_musiclm import (
    ClapQuantizer,
    MusicLMCoarseModel,
    MusicLMFineModel,
    MusicLMPipeline,
    MusicLMSemanticModel,
    MusicLMStageModel,
    SemanticQuantizer,
    SpectralCodecModel,
)
from open_musiclm.models.patterns import num_steps

LIMIT_IN_BYTES = 25_000_000  # deflated, as in a wheel
TRAINING_DATA = "music composed by rule and synthesized by examples/mini: a small demonstration, no real music"
CLASSES = {
    "clap": ClapModel,
    "clap_quantizer": ClapQuantizer,
    "semantic_model": MusicLMSemanticModel,
    "coarse_model": MusicLMCoarseModel,
    "fine_model": MusicLMFineModel,
    "codec": SpectralCodecModel,
    "semantic_encoder": HubertModel,
    "semantic_quantizer": SemanticQuantizer,
}
CODEBOOKS = ("codebooks", "codebook", "embed")


def store_in_half(model: torch.nn.Module) -> None:
    """Cast to float16 all but the codebooks, whose values are what a fingerprint is of.

    Two of the eleven significant bits are rounded away (bfloat16 has eight): a wheel packs the zeros.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and name.rpartition(".")[2] not in CODEBOOKS:
            mantissa, exponent = torch.frexp(tensor.data.float())
            tensor.data = torch.ldexp(torch.round(mantissa * 512) / 512, exponent).half()


@torch.no_grad()
def clear_what_nobody_reads(stage: MusicLMStageModel) -> None:
    """Zero the heads of conditioning streams and the positions that no window reaches: zeros take no room in a wheel."""
    for stream in stage.condition_streams:
        stage.heads[stream.name].zero_()
    if stage.position_embeddings is not None:
        for stream in stage.streams:
            num_frames = round(stage.config.window_in_s * stream.frame_rate) if stream.frame_rate else 1
            rows = num_steps(stream, num_frames) + 1  # with EOS
            stage.position_embeddings[stream.name].weight[rows:].zero_()


def assemble_pipeline(models: Path, output: Path, recipe: Recipe) -> None:
    """Save the pipeline to `output`, through a neighbour that is renamed when whole."""
    parts = {name: kind.from_pretrained(models / name, dtype=torch.float32) for name, kind in CLASSES.items()}
    for name in STAGES:
        stage = parts[f"{name}_model"]
        settings = recipe.sampling[STAGES.index(name)]
        stage.generation_config.update(**settings)
        clear_what_nobody_reads(stage)
    pipeline = MusicLMPipeline(**parts, clap_processor=ClapProcessor.from_pretrained(models / "clap"))
    for part in parts.values():
        part.config.training_data = [TRAINING_DATA]
        store_in_half(part)
    aside = output.with_name(output.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    pipeline.save_pretrained(aside, repo_id="open-musiclm-mini")
    judged = Path(__file__).with_name("judged.md")
    with (aside / "README.md").open("a", encoding="utf-8") as card:
        card.write("\n" + judged.read_text(encoding="utf-8"))
    for name in parts:  # stored small, run in float32: what a loader reads from the config
        path = aside / name / "config.json"
        config = json.loads(path.read_text())
        config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")
    sizes = {path.relative_to(aside).as_posix(): path.stat().st_size for path in aside.rglob("*") if path.is_file()}
    total = sum(len(zlib.compress(path.read_bytes())) for path in aside.rglob("*") if path.is_file())
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:8]:
        print(f"  {size / 1e6:6.2f} MB  {name}")
    print(f"pipeline: {sum(sizes.values()) / 1e6:.2f} MB in {len(sizes)} files, {total / 1e6:.2f} MB deflated")
    if total > LIMIT_IN_BYTES:
        raise ValueError(
            f"the pipeline has {total} bytes deflated; the wheel takes {LIMIT_IN_BYTES}: make a network smaller"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.exists():
        shutil.rmtree(output)
    os.replace(aside, output)
