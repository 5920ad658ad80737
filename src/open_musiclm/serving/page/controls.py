"""What a model can be asked for as controls of the page, and their values as requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...pipelines.mixtures import Recording
from ..capabilities import AttributeControl, Capabilities
from ..limits import Limits
from ..requests import MusicRequest
from ..sounds import recording_of

LABELS = {
    "tempo": "Tempo, beats a minute",
    "timing": "Length of the whole piece, seconds",
    "melody": "Melody: hum, whistle or play it",
    "lyrics": "Lyrics",
}
#: from_told's names of what the controls hold
FIELDS = {
    "prompt": "prompt", "duration": "duration_in_s", "seed": "seed", "variants": "num_variants",
    "guidance": "guidance_scale", "negative": "negative_prompt", "candidates": "num_candidates",
    "temperature": "temperature", "top_k": "top_k", "reference_weight": "reference_weight", "loop": "loop",
    "transition": "transition_in_s",
}  # fmt: skip
#: what fields hold that are never empty, where nothing is asked for
NUMBERS = {"guidance": 0, "temperature": 0, "top_k": 0, "candidates": 1}


def sound(label: str, name: str) -> gr.Audio:
    """Where a recording is dropped or made."""
    return gr.Audio(
        label=label, sources=["upload", "microphone"], type="filepath", elem_id=name, editable=False, buttons=[]
    )


def attribute_control(control: AttributeControl) -> Any:
    """One stream's."""
    label = LABELS.get(control.name, control.name.capitalize())
    name = f"attribute-{control.name}"
    if control.kind == "number":
        info = f"{control.least:g} to {control.most:g}; 0: any"
        return gr.Number(0, label=label, info=info, elem_id=name, min_width=120)
    if control.kind == "sound":
        return sound(label, name)
    if control.kind == "choice":
        most = int(control.most or 1)
        several = f", up to {most}" if most > 1 else ""
        return gr.Dropdown(
            list(control.choices), value=[] if most > 1 else None, label=f"{label}{several}", multiselect=most > 1,
            max_choices=most if most > 1 else None, elem_id=name,
        )  # fmt: skip
    known = f"it knows {' '.join(control.choices)}" if control.choices else None
    return gr.Textbox("", label=label, info=known, elem_id=name)


def attribute_value(control: AttributeControl, value: Any, limits: Limits) -> Any:
    """What a control holds as the stream takes it; `None` for nothing."""
    if value in (None, "", [], 0):  # a number's field is never empty
        return None
    if control.kind == "sound":
        return read_upload(value, control.name, limits)
    if control.kind == "number":
        return float(value) if float(value) % 1 else int(value)
    return "+".join(value) if isinstance(value, list) else str(value)


def read_upload(path: str | None, name: str, limits: Limits) -> Recording | None:
    """A recording that Gradio put into its own folder."""
    return None if not path else recording_of(Path(path).read_bytes(), name, limits)


def request_of(values: Mapping[str, Any], capabilities: Capabilities, limits: Limits, **more: Any) -> MusicRequest:
    """The request of a tab's controls, by their names.

    Raises:
        ValueError: a recording that cannot be read.
    """
    attributes = {}
    for control in capabilities.attributes:
        value = attribute_value(control, values.get(f"attribute-{control.name}"), limits)
        if value is not None:
            attributes[control.name] = value
    fields: dict[str, Any] = {"attributes": attributes}
    for name, own in FIELDS.items():
        value = values.get(name)
        if value is not None and value != "":
            fields[own] = int(value) if own in ("seed", "num_variants", "num_candidates", "top_k") else value
    if fields.get("num_candidates", 1) <= fields.get("num_variants", 1):
        fields.pop("num_candidates", None)  # one of one is no choice
    for name in ("guidance_scale", "temperature", "top_k"):
        if not fields.get(name):
            fields.pop(name, None)  # 0: what the model was saved with
    reference = read_upload(values.get("reference"), "the recording", limits)
    return MusicRequest(**fields, reference=reference, **more)


def values_of(told: Mapping[str, Any], names: Sequence[str], capabilities: Capabilities) -> list[Any]:
    """What controls of these names are to hold for settings from a file or an address; recordings stay as they are."""
    request = MusicRequest.from_told(told)
    kinds = {control.name: control for control in capabilities.attributes}
    values: list[Any] = []
    for name in names:
        if name in FIELDS:
            value = getattr(request, FIELDS[name])
            values.append(NUMBERS.get(name) if value is None else value)
            continue
        control = kinds.get(name.removeprefix("attribute-"))
        value = None if control is None else request.attributes.get(control.name)
        if control is None or control.is_sound:
            values.append(gr.skip())
        elif control.kind == "choice" and int(control.most or 1) > 1:
            values.append([each for each in str(value).split("+") if each in control.choices] if value else [])
        elif control.kind == "choice":
            values.append(value if value in control.choices else None)
        else:
            values.append(value if value is not None else ("" if control.kind == "text" else 0))
    return values


def told_in_address(text: str | None) -> dict[str, Any]:
    """The settings that an address holds; empty if it holds none."""
    try:
        told = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
