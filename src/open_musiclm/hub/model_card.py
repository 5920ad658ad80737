"""Model cards, written from what the components know; `MODEL_CARD.md` is the template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

TEMPLATE = Path(__file__).with_name("MODEL_CARD.md")
#: what every pipeline has beside its stages
PIPELINE_PARTS = ("clap", "clap_quantizer", "codec")
NUMBERS = {1: "one", 2: "two", 3: "three"}
NON_COMMERCIAL = "cc-by-nc-4.0"

# Source (a Hub id, or the name of an original file) → licence of its weights, as its authors state it.
KNOWN_LICENCES = {
    r"m-a-p/MERT-.*": NON_COMMERCIAL,
    r"laion/(larger_)?clap.*": "apache-2.0",
    r"(630k|music)_?.*\.pt": "cc0-1.0",
    r"facebook/encodec.*": "mit",
    r"encodec_.*\.th": "mit",
    r"facebook/hubert.*": "apache-2.0",
}


@dataclass(frozen=True)
class Part:
    """One component as a card describes it. `source` is where its weights come from, as far as that is recorded."""

    name: str
    class_name: str
    config: Any
    num_parameters: int
    fingerprint: str | None = None

    @property
    def streams(self) -> Sequence[Mapping[str, Any]]:
        return getattr(self.config, "streams", None) or ()

    @property
    def source(self) -> str | None:
        """What was recorded, or else the Hub id that it was loaded from."""
        recorded, loaded = getattr(self.config, "source", None), getattr(self.config, "_name_or_path", "")
        if recorded:
            return recorded
        return loaded if is_hub_id(loaded) and not Path(loaded).exists() else None

    @property
    def encoder(self) -> str | None:
        """The semantic encoder on whose tokens a stage was trained, or on whose features a quantizer was fitted."""
        return getattr(self.config, "semantic_encoder", None)

    @property
    def fine_tuned_from(self) -> str | None:
        """What a training of it started from."""
        return getattr(self.config, "fine_tuned_from", None)

    @property
    def licence(self) -> str | None:
        """Recorded in the config, or else known of where the weights or their training tokens come from."""
        recorded = getattr(self.config, "license", None)
        origins = [origin for origin in (self.source, self.encoder) if origin]
        known = (licence for o in origins for name, licence in KNOWN_LICENCES.items() if re.fullmatch(name, o))
        return recorded or next(known, None)

    @property
    def origin(self) -> str | None:
        """Where it comes from, in words."""
        if self.fine_tuned_from:
            return f"fine-tuned from {self.fine_tuned_from}"
        if self.source:
            return self.source
        return f"trained on tokens of {self.encoder}" if self.encoder else None

    @property
    def size(self) -> str:
        return f"{self.num_parameters / 1e6:.1f} M" if self.num_parameters >= 1e5 else f"{self.num_parameters:,}"

    @property
    def summary(self) -> str:
        config = self.config
        if self.streams:
            reads = ", ".join(stream["name"] for stream in self.streams[:-1])
            return (
                f"{self.class_name}: {reads} → {self.streams[-1]['name']} tokens; {config.num_hidden_layers} layers, width "
                f"{config.hidden_size}, {config.num_attention_heads} heads, windows of {config.window_in_s:g} s"
            )
        if self.class_name == "ClapQuantizer":
            return f"{self.class_name}: {config.num_quantizers} residual steps over {config.embedding_dim} dimensions"
        if self.class_name == "SemanticQuantizer":
            return f"{self.class_name}: k-means over layer {config.layer}, {config.feature_dim} features"
        if hasattr(config, "sampling_rate"):
            return f"{self.class_name}, {config.sampling_rate} Hz"
        return self.class_name


def card_of_components(components: Mapping[str, Any], repo_id: str, license: str | None = None) -> ModelCard:
    """The card of a pipeline's components by name, or of a single model under the name ""."""
    parts = [
        Part(name, type(model).__name__, model.config, model.num_parameters(), getattr(model, "fingerprint", None))
        for name, model in components.items()
        if hasattr(model, "num_parameters")
    ]
    return model_card(parts, repo_id, license)


def model_card(parts: Sequence[Part], repo_id: str, license: str | None = None) -> ModelCard:
    """The card of these parts.

    Its licence is the narrowest of the parts' known ones, and "other" while the publisher has not said which.

    Args:
        license: what the publisher says, as the Hub names licences (`"apache-2.0"`).

    Raises:
        ValueError: a part is licensed for non-commercial use only, and this licence is not.
    """
    names = {part.name for part in parts}
    stages = [part for part in parts if part.streams]
    is_pipeline = names.issuperset(PIPELINE_PARTS) and bool(stages)
    datasets = _unique(data for part in parts for data in getattr(part.config, "training_data", None) or ())
    licence, licence_note = _overall_licence(parts, license)
    data = ModelCardData(
        library_name="diffusers" if is_pipeline else "transformers",
        pipeline_tag="text-to-audio",
        license=licence,
        base_model=_unique(
            origin for part in parts for origin in (part.fine_tuned_from, part.source) if origin and is_hub_id(origin)
        )
        or None,
        datasets=[name for name in datasets if is_hub_id(name)] or None,
        tags=["open-musiclm", "music", "text-to-music", "audio"],
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=repo_id.split("/")[-1],
        repo_id=repo_id,
        is_pipeline=is_pipeline,
        num_stages=NUMBERS.get(len(stages), str(len(stages))) + (" stage" if len(stages) == 1 else " stages"),
        is_single=len(parts) == 1,
        parts=parts,
        codebooks=_codebooks(parts),
        datasets=datasets,
        converted_from=_unique(
            part.config.converted_from for part in parts if getattr(part.config, "converted_from", None)
        ),
        licences=[
            {
                "part": part.name or "this",
                "source": part.origin,
                "licence": part.licence or "not known here: look it up",
            }
            for part in parts
            if part.origin
        ],
        licence_note=licence_note,
    )


def parts_of_folder(folder: str | Path) -> list[Part]:
    """The parts saved under a folder, from their configs and the headers of their weights alone."""
    from transformers import AutoConfig

    from ..models.chain import stages_among
    from ..models.configuration import ClapQuantizerConfig, SemanticQuantizerConfig
    from ..tokenizers.quantizers import ClapQuantizer, SemanticQuantizer

    quantizers: dict[type, Any] = {ClapQuantizerConfig: ClapQuantizer, SemanticQuantizerConfig: SemanticQuantizer}
    parts = []
    for config_file in sorted(Path(folder).glob("*/config.json")):
        part_folder = config_file.parent
        config = AutoConfig.from_pretrained(part_folder, trust_remote_code=False)
        quantizer = quantizers.get(type(config))
        fingerprint = quantizer.from_pretrained(part_folder).fingerprint if quantizer else None
        class_name = json.loads(config_file.read_text(encoding="utf-8"))["architectures"][0]
        parts.append(Part(part_folder.name, class_name, config, _count_parameters(part_folder), fingerprint))
    stages = stages_among({part.name: part.config for part in parts})
    order = {name: index for index, name in enumerate((*PIPELINE_PARTS[:-1], *stages, *PIPELINE_PARTS[-1:]))}
    return sorted(parts, key=lambda part: order.get(part.name, len(order)))


def _count_parameters(folder: Path) -> int:
    from safetensors import safe_open

    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def _codebooks(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """One row for each stream that a stage or a quantizer knows."""
    rows: dict[str, dict[str, Any]] = {}
    for part in parts:
        for stream in part.streams:
            row = rows.setdefault(stream["name"], _codebook_row(stream))
            row["recorded_by"].append(part.name or part.class_name)
            if stream["codebook_fingerprint"]:
                row["fingerprint"] = f"`{stream['codebook_fingerprint']}`"
        if part.fingerprint is not None:
            name = _stream_of_source("clap" if part.class_name == "ClapQuantizer" else "semantic", parts)
            config = part.config
            stream = {
                "name": name,
                "num_codebooks": getattr(config, "num_quantizers", 1),
                "codebook_size": config.codebook_size,
                "frame_rate": getattr(config, "frame_rate", None),
            }
            row = rows.setdefault(name, _codebook_row(stream))
            row["recorded_by"].append(part.name or part.class_name)
            row["fingerprint"] = f"`{part.fingerprint}`"
    return [{**row, "recorded_by": ", ".join(row["recorded_by"])} for row in rows.values()]


def _stream_of_source(source: str, parts: Sequence[Part]) -> str:
    """What the stages call the source's stream."""
    streams = (stream for part in parts for stream in part.streams)
    return next((stream["name"] for stream in streams if stream.get("source", stream["name"]) == source), source)


def _codebook_row(stream: Mapping[str, Any]) -> dict[str, Any]:
    rate = stream["frame_rate"]
    return {
        "stream": stream["name"],
        "num_codebooks": stream["num_codebooks"],
        "codebook_size": stream["codebook_size"],
        "rate": f"{rate:g} Hz" if rate else "once a window",
        "fingerprint": "not recorded",
        "recorded_by": [],
    }


def _overall_licence(parts: Sequence[Part], license: str | None = None) -> tuple[str, str]:
    """The licence for the card's metadata, and what to say about it."""
    restricted = [part for part in parts if part.licence and "-nc" in part.licence]
    if restricted:
        names = ", ".join(f"{part.name or 'this part'} ({part.origin})" for part in restricted)
        if license is not None and "-nc" not in license:
            raise ValueError(
                f"The licence {license!r} is wider than that of {names}, for non-commercial use only; leave `license` out, "
                f"or pass {NON_COMMERCIAL!r}."
            )
        return license or NON_COMMERCIAL, (
            f"Licensed for non-commercial use only: {names}. This card treats what contains such a part, or was trained on "
            "its tokens, the same way, so the whole model is for non-commercial use. With another semantic encoder, and "
            "stages trained on its tokens, that would not follow."
        )
    if license is not None:
        return license, "The licence above is what the publisher states. The frozen parts keep theirs."
    stated = _unique(part.licence for part in parts if getattr(part.config, "license", None))
    if len(stated) == 1:
        return stated[0], "The licence above is what the publisher of the stages states."
    return "other", (
        "The publisher has not stated a licence for the trained stages: set `license` in this card. The frozen parts keep "
        "theirs. Stages trained on tokens of a non-commercial encoder (MERT is one) are bound by its licence."
    )


def is_hub_id(name: str | None) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name or "") is not None


def _unique(values) -> list:
    return list(dict.fromkeys(values))
