"""What the tabs share: buttons that ask for a piece, the cards it appears on, seeds, and what is refused."""

from __future__ import annotations

import functools
import random
from typing import Any

import gradio as gr

from ..engine import Engine
from ..limits import Refusal
from .shelf import Shelf

CARDS = '<div class="music-cards" aria-live="polite"></div>'
NEW_SEEDS = 2**31


class Tabs:
    """
    Args:
        shelf: where pieces are.
    """

    def __init__(self, shelf: Shelf):
        self.shelf = shelf
        self.engine: Engine = next(iter(shelf.engines.values()))
        self.capabilities, self.limits = self.engine.capabilities, self.engine.limits

    def button(self, label: str, name: str) -> gr.Button:
        return gr.Button(label, variant="primary", elem_id=name)

    def cards(self, name: str) -> gr.Textbox:
        """Where a tab's pieces go; returns the hidden field that takes a new one's name."""
        token = gr.Textbox(elem_id=f"{name}-token", elem_classes="music-hidden", container=False, show_label=False)
        gr.HTML(CARDS, elem_id=f"{name}-cards")
        return token

    def ask(self, button: Any, function: Any, inputs: list[Any], token: gr.Textbox, name: str) -> None:
        """A button → a piece on the shelf → its card."""
        event = getattr(button, "click", None) or button.submit
        event(None, js="() => window.openMusicLM.ready()").then(
            refusing(function), inputs, token, api_visibility="private", show_progress="hidden", concurrency_limit=32
        ).success(None, token, js=f"(token) => window.openMusicLM.show('{name}-cards', token)")

    def models(self) -> gr.Dropdown:
        names = list(self.shelf.engines)
        return gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)

    def seed(self, name: str = "seed") -> gr.Number:
        with gr.Row(equal_height=True):
            seed = gr.Number(new_seed(), label="Seed", precision=0, elem_id=name, min_width=120)
            dice = gr.Button("⚄ new", elem_id=f"{name}-dice", min_width=110, scale=0)
        dice.click(new_seed, None, seed, api_visibility="private", show_progress="hidden")
        return seed


def new_seed() -> int:
    return random.SystemRandom().randrange(NEW_SEEDS)


def refusing(function: Any) -> Any:
    """A handler whose refusals are said on the page."""

    @functools.wraps(function)
    def handler(*args: Any) -> Any:
        try:
            return function(*args)
        except (ValueError, Refusal, OSError, RuntimeError) as error:
            raise gr.Error(" ".join(str(error).split()), duration=10) from error

    return handler
