"""The tab on which two models or settings are held against one another."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from ..requests import MusicRequest
from .compare import SCALE_WORDS, Comparison
from .create import EXAMPLES
from .tabs import Tabs, new_seed, refusing


def compare_tab(page: Tabs) -> None:
    """The last tab."""
    gr.Markdown(
        "Two models or settings, in an order that is not told. Rate some pairs; the answers and their key are read by "
        "`open-musiclm evaluate --listening-results answers.json --output FOLDER-OF-THE-KEY`."
    )
    names = list(page.shelf.engines)
    test, pair = gr.State(None), gr.State("")
    prompt = gr.Textbox("", label="Prompt", placeholder=EXAMPLES[0], elem_id="compare-prompt")
    sides: list[Any] = []
    with gr.Row():
        for number in (1, 2):
            with gr.Column(min_width=280):
                chosen = names[(number - 1) % len(names)]
                sides.append(gr.Dropdown(names, value=chosen, label=f"Model {number}", visible=len(names) > 1))
                guidance = 0 if number == 1 or not page.capabilities.guidance else 3
                sides.append(
                    gr.Slider(
                        0,
                        10,
                        guidance,
                        step=0.5,
                        label=f"Guidance {number}",
                        info="0: as saved",
                        visible=page.capabilities.guidance,
                        elem_id=f"compare-guidance-{number}",
                    )
                )
                temperature = gr.Number(
                    0, label=f"Temperature {number}", info="0: as saved", elem_id=f"compare-temperature-{number}"
                )
                sides.append(temperature)
    duration = gr.Slider(1, 30, 5, step=0.5, label="Seconds", elem_id="compare-duration")
    button = page.button("Make a pair", "make-pair")
    tokens = gr.Textbox(elem_id="pair-tokens", elem_classes="music-hidden", container=False, show_label=False)
    gr.HTML('<div class="music-cards music-pair"></div>', elem_id="pair")
    rating = gr.Radio(list(SCALE_WORDS.values()), label="Which fits the prompt better?", elem_id="rating")
    rated = gr.Markdown("no pair is rated yet", elem_id="rated")
    with gr.Row():
        rater = gr.Textbox("", label="Your name", elem_id="rater")
        save = gr.Button("Save the answers and their key", elem_id="save-answers")
    saved = gr.Textbox(elem_id="saved", elem_classes="music-hidden", container=False, show_label=False)

    def make_pair(so_far: Comparison | None, text: str, length: float, *values: Any) -> tuple[Any, ...]:
        comparison, seed, asked = so_far or Comparison(), new_seed(), {}
        for model_name, scale, heat in (values[:3], values[3:]):
            chosen: dict[str, Any] = {"guidance_scale": scale, "temperature": heat}
            own = {name: value for name, value in chosen.items() if value}
            system = " ".join([model_name, *(f"{name}={value:g}" for name, value in own.items())])
            asked[system] = (model_name, MusicRequest(text, float(length), seed, **own))
        name = comparison.add(page.shelf, asked)
        return comparison, name, " ".join(comparison.tokens[name]), None

    def rate(comparison: Comparison | None, name: str, word: str | None) -> Any:
        if comparison is None or not word:
            return gr.skip(), gr.skip()
        comparison.rate(name, next(value for value, each in SCALE_WORDS.items() if each == word))
        return comparison, f"{len(comparison.ratings)} of {len(comparison.pairs)} pairs rated"

    def told(comparison: Comparison | None, name: str) -> str:
        if comparison is None or not comparison.ratings:
            raise ValueError("Rate a pair first.")
        return json.dumps(comparison.files(name))

    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    button.click(
        refusing(make_pair), [test, prompt, duration, *sides], [test, pair, tokens, rating], **hidden
    ).success(None, tokens, js="(tokens) => window.openMusicLM.pair(tokens)")
    rating.input(refusing(rate), [test, pair, rating], [test, rated], **hidden)
    save.click(refusing(told), [test, rater], saved, **hidden).success(
        None, saved, js="(files) => window.openMusicLM.save(files)"
    )
