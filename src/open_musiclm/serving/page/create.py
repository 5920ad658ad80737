"""The tab on which music is made from a text and whatever else the model's streams take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from ...audio import read_metadata
from .controls import attribute_control, request_of, sound, told_in_address, values_of
from .tabs import Tabs, refusing

EXAMPLES = (
    "a calm piano melody in a minor key",
    "fast drums and a deep bass",
    "a bright organ, slow",
    "0:00 a calm piano melody | 0:08 strings in a major key",
    "0.7 * warm strings + 0.3 * a music box",
)


def create_tab(page: Tabs, blocks: gr.Blocks) -> None:
    """The first tab."""
    limits, capabilities = page.limits, page.capabilities
    controls: dict[str, Any] = {}
    model = page.models()
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            controls["prompt"] = gr.Textbox(
                label="What should it sound like?",
                lines=2,
                elem_id="prompt",
                placeholder=EXAMPLES[0],
                max_length=limits.text,
            )
            gr.Examples([[text] for text in EXAMPLES], [controls["prompt"]], label="for example")
            with gr.Row():
                controls["duration"] = gr.Slider(
                    1, limits.duration_in_s, 10, step=0.5, label="Seconds", elem_id="duration"
                )
                controls["variants"] = gr.Slider(1, limits.variants, 1, step=1, label="Variants", elem_id="variants")
            controls["seed"] = page.seed()
            with gr.Row(equal_height=True):
                button = page.button("Create", "create")
                gr.Checkbox(True, label="listen while it is made", elem_id="listen", container=False, min_width=160)
            token = page.cards("create")
        with gr.Column(scale=2, min_width=280):
            if capabilities.guidance:
                controls["guidance"] = gr.Slider(
                    0, 10, 0, step=0.5, label="Guidance", info="lead towards the prompt; 0: as the model was saved"
                )
            said = [control for control in reversed(capabilities.attributes) if not control.is_sound]
            if said:
                with gr.Accordion(", ".join(control.name for control in said).capitalize(), open=True):
                    for control in said:
                        controls[f"attribute-{control.name}"] = attribute_control(control)
            with gr.Accordion("A melody, a recording to be like", open=False, elem_id="recordings"):
                for control in capabilities.attributes:
                    if control.is_sound:
                        controls[f"attribute-{control.name}"] = attribute_control(control)
                controls["reference"] = sound("A recording to be like", "reference")
                controls["reference_weight"] = gr.Slider(
                    0.05, 0.95, 0.5, step=0.05, label="how much of it, beside the prompt"
                )
            with gr.Accordion("More settings", open=False, elem_id="more"):
                controls["candidates"] = gr.Slider(
                    1,
                    limits.variants,
                    1,
                    step=1,
                    label="Candidates",
                    info="make so many, keep the nearest to the prompt by CLAP",
                )
                with gr.Row():
                    controls["temperature"] = gr.Number(0, label="Temperature", info="0: as saved", min_width=100)
                    controls["top_k"] = gr.Number(0, label="Top k", precision=0, info="0: as saved", min_width=100)
                controls["transition"] = gr.Number(0, label="Transition", info="seconds between the parts of a story")
                if capabilities.guidance:
                    controls["negative"] = gr.Textbox("", label="Lead away from", info="with guidance")
                controls["loop"] = gr.Checkbox(False, label="Its end runs into its beginning")
            dropped = gr.File(
                label="Drop a WAV or FLAC made here: its settings come back",
                file_types=[".wav", ".flac"],
                elem_id="dropped",
                height=110,
            )
    names = list(controls)
    known = [controls[name] for name in names]

    def create(model_name: str, *values: Any) -> str:
        asked = dict(zip(names, values, strict=True))
        return page.shelf.ask(model_name, request_of(asked, capabilities, limits))

    for asks in (button, controls["prompt"]):
        page.ask(asks, create, [model, *known], token, "create")

    def from_file(path: str | None) -> list[Any]:
        if not path:
            return [gr.skip() for _ in names]
        told = read_metadata(Path(path).read_bytes())
        if "prompt" not in told:
            raise ValueError("This file holds no settings: it was not made here.")
        return values_of(told, names, capabilities)

    def from_address(request: gr.Request) -> list[Any]:
        told = told_in_address(request.query_params.get("settings"))
        return values_of(told, names, capabilities) if told else [gr.skip() for _ in names]

    dropped.upload(refusing(from_file), dropped, known, api_visibility="private", show_progress="hidden")
    blocks.load(from_address, None, known, api_visibility="private", show_progress="hidden")
