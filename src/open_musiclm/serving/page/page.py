"""Gradio's blocks: the tabs, and what their buttons ask of the shelf. The cards are drawn by page.js."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr

from ..requests import MusicRequest
from .comparing import compare_tab
from .controls import read_upload, sound
from .create import create_tab
from .tabs import CARDS, Tabs, refusing

WAYS = {
    "continue it": "continue",
    "make the region anew": "replace",
    "put more behind the region": "extend",
    "vary the region": "vary",
    "repeat the region": "repeat",
    "make all of it anew, with its tune": "remake",
}


def head() -> str:
    """Style and script of the cards, as a part of the page itself."""
    here = files(__package__)
    return (
        f"<style>{here.joinpath('page.css').read_text('utf-8')}</style>"
        f"<script>{here.joinpath('page.js').read_text('utf-8')}</script>"
    )


def theme() -> gr.themes.Base:
    """Fonts that every machine has: nothing is loaded."""
    return gr.themes.Default(
        primary_hue="emerald", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )


class Page(Tabs):
    """The page of some models.

    Args:
        shelf: where its pieces are.
    """

    def blocks(self) -> gr.Blocks:
        """All of it."""
        with gr.Blocks(title="Open MusicLM", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            gr.HTML('<div class="music-head"><h1>Open MusicLM</h1></div>')
            with gr.Tabs():
                with gr.Tab("Create"):
                    create_tab(self, blocks)
                with gr.Tab("Story"):
                    self._story()
                if self.capabilities.hears:
                    with gr.Tab("Continue and edit"):
                        self._edit()
                with gr.Tab("Loop"):
                    self._loop()
                with gr.Tab("Compare"):
                    compare_tab(self)
        return blocks

    # ------------------------------------------------------------------- story

    def _story(self) -> None:
        gr.Markdown("A prompt for each time. The music goes from one to the next.")
        model = self.models()
        parts = gr.Dataframe(
            headers=["from second", "what it sounds like"],
            value=[[0, "a calm piano melody"], [8, "strings in a major key"], [None, ""], [None, ""]],
            datatype=["number", "str"], type="array", row_count=4, column_count=2, label="Timeline",
            elem_id="timeline",
        )  # fmt: skip
        with gr.Row():
            duration = gr.Slider(
                2, self.limits.duration_in_s, 16, step=0.5, label="Seconds in all", elem_id="story-duration"
            )
            transition = gr.Slider(0, 10, 2, step=0.5, label="Seconds of a transition")
        seed = self.seed("story-seed")
        button = self.button("Tell it", "tell")
        token = self.cards("story")

        def tell(model_name: str, rows: list[list[Any]], length: float, change: float, number: float) -> str:
            told = sorted((float(start or 0), str(text).strip()) for start, text in rows if str(text or "").strip())
            if not told:
                raise ValueError("A story needs at least one part: a time and a text.")
            prompt = " | ".join(f"{start:g} s {text}" for start, text in told)
            if len(told) == 1:
                prompt, change = told[0][1], 0.0
            request = MusicRequest(prompt, float(length), int(number or 0), transition_in_s=float(change))
            return self.shelf.ask(model_name, request)

        self.ask(button, tell, [model, parts, duration, transition, seed], token, "story")

    # ------------------------------------------------------------------- edit

    def _source(self, name: str) -> tuple[gr.Audio, gr.Textbox]:
        """A recording to send, and the hidden field that holds the name of what was chosen."""
        upload = sound("A recording", f"{name}-upload")
        source = gr.Textbox(elem_id=f"{name}-source", elem_classes="music-hidden", container=False, show_label=False)

        def take(path: str | None) -> str:
            recording = read_upload(path, "the recording", self.limits)
            return "" if recording is None else f"{self.shelf.keep(recording, 'your recording')} 0"

        for event in (upload.upload, upload.stop_recording):
            changed = event(refusing(take), upload, source, api_visibility="private", show_progress="hidden")
            changed.success(None, source, js=f"(source) => '{name}' === 'edit' && window.openMusicLM.chosen(source)")
        return upload, source

    def _chosen(self, source: str) -> Any:
        """The recording of a hidden field.

        Raises:
            ValueError: there is none.
        """
        if not source:
            raise ValueError("Send a recording first, or press “Edit” on a piece.")
        token, _, place = source.partition(" ")
        return self.shelf.recording(token, int(place) if place.isdigit() else 0)

    def _edit(self) -> None:
        gr.Markdown("Send a recording, or press “Edit” on a piece. Drag over its waveform to choose a region.")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                _, source = self._source("edit")
                gr.HTML(CARDS, elem_id="edit-chosen")
            with gr.Column(scale=2, min_width=280):
                way = gr.Radio(list(WAYS), value=next(iter(WAYS)), label="What to do", elem_id="edit-way")
                with gr.Row():
                    start = gr.Number(0, label="Region from, seconds", elem_id="edit-start", min_width=120)
                    stop = gr.Number(0, label="to (0: its end)", elem_id="edit-stop", min_width=120)
                duration = gr.Slider(
                    0.5,
                    self.limits.duration_in_s,
                    5,
                    step=0.5,
                    label="Seconds that are added",
                    elem_id="edit-duration",
                )
                prompt = gr.Textbox(
                    "",
                    label="What the new part is like",
                    placeholder="empty: like the recording",
                    elem_id="edit-prompt",
                )
                variants = gr.Slider(1, max(self.limits.variants // 4, 1), 1, step=1, label="Variants")
        seed = self.seed("edit-seed")
        button = self.button("Change it", "change")
        token = self.cards("edit")

        def change(
            chosen: str,
            name: str,
            first: float | None,
            last: float | None,
            more: float,
            text: str,
            many: float,
            number: float,
        ) -> str:
            request = MusicRequest(
                text or "", float(more), int(number or 0), int(many), recording=self._chosen(chosen), way=WAYS[name],
                start_in_s=float(first or 0), stop_in_s=float(last) if last else None,
            )  # fmt: skip
            return self.shelf.ask(None, request, title=f"{name}: {text}" if text else name)

        self.ask(button, change, [source, way, start, stop, duration, prompt, variants, seed], token, "edit")

    # ------------------------------------------------------------------- loop

    def _loop(self) -> None:
        gr.Markdown("A piece whose end runs into its beginning; with a tempo it has whole bars.")
        tempo_control = next((c for c in self.capabilities.attributes if c.name == "tempo"), None)
        with gr.Row():
            prompt = gr.Textbox("", label="What should it sound like?", elem_id="loop-prompt", scale=3)
            duration = gr.Slider(2, self.limits.duration_in_s, 8, step=0.5, label="Seconds", elem_id="loop-duration")
            tempo = gr.Number(
                120 if tempo_control else None, label="Tempo, beats a minute", visible=tempo_control is not None
            )
        source: Any = gr.State("")
        if self.capabilities.hears:
            with gr.Accordion("Or close a recording to a loop", open=False):
                _, source = self._source("loop")
        seed = self.seed("loop-seed")
        button = self.button("Make a loop", "make-loop")
        token = self.cards("loop")

        def make_loop(text: str, length: float, beats: float | None, chosen: str, number: float) -> str:
            if chosen and not text.strip():
                recording = self._chosen(chosen)
                return self.shelf.ask(
                    None, MusicRequest(seed=int(number or 0), recording=recording, way="loop"), "a loop"
                )
            attributes = {tempo_control.name: beats} if tempo_control and beats else {}
            request = MusicRequest(text, float(length), int(number or 0), loop=True, attributes=attributes)
            return self.shelf.ask(None, request)

        self.ask(button, make_loop, [prompt, duration, tempo, source, seed], token, "loop")
