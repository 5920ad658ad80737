"""The page in a real browser: `python tests/serving/pictures.py FOLDER` writes pictures of it at two widths.

Needs Playwright and a Chromium of the system (`apt-get install chromium`).
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
DESKTOP, PHONE = (1280, 900), (390, 844)
LONGEST_MS = 40_000


class Browser:
    """A page of the app, and what it did wrong."""

    def __init__(self, page, url: str):
        self.page, self.url = page, url
        self.foreign: list[str] = []
        self.faults: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(LONGEST_MS)
        page.on("request", lambda request: self._note(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    def _note(self, address: str) -> None:
        self.asked.append(address)
        if not address.startswith((self.url, "blob:", "data:")):
            self.foreign.append(address)

    def open(self, address: str | None = None) -> None:
        self.page.goto(address or self.url)
        self.page.wait_for_selector("#create:visible")
        self.page.wait_for_function("window.openMusicLM !== undefined")

    def tab(self, name: str) -> None:
        tabs = self.page.get_by_role("tab", name=name, exact=True)
        if not tabs.first.is_visible():  # on a phone the last ones are behind a button
            self.page.locator(".overflow-menu button").first.click()
            self.page.locator(".overflow-dropdown button", has_text=name).click()
            return
        tabs.first.click()

    def number(self, name: str, value: float) -> None:
        field = self.page.locator(f"#{name} input[type=number]")
        field.fill(f"{value:g}")
        field.blur()

    def card(self, where: str, state: str = "done"):
        """The newest card of a tab, once it is that far."""
        self.page.wait_for_selector(f"#{where} music-card[state={state}]")
        card = self.page.locator(f"#{where} music-card").first
        if state == "done":
            card.locator("canvas.wave").first.wait_for()
            self.page.wait_for_selector(f"#{where} music-card[drawn]")
        return card

    def create(self, prompt: str, duration: float, seed: int = 0):
        self.page.fill("#prompt textarea", prompt)
        self.number("duration", duration)
        self.number("seed", seed)
        self.page.click("#create")

    def samples(self, card, place: int = 0) -> np.ndarray:
        """What a card's file holds, (samples,)."""
        return soundfile.read(io.BytesIO(self.file(card, place)), always_2d=True)[0][:, 0]

    def file(self, card, place: int = 0) -> bytes:
        address = card.locator("audio").nth(place).get_attribute("src")
        answer = self.page.request.get(address)
        assert answer.ok
        return answer.body()


@contextmanager
def chromium() -> Iterator:
    """A Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@contextmanager
def looking(chromium, url: str, size: tuple[int, int] = DESKTOP) -> Iterator[Browser]:
    """Somebody who looks at the page for the first time."""
    context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
    yield Browser(context.new_page(), url)
    context.close()


@contextmanager
def app_of(pipe, **limits) -> Iterator[tuple[str, object]]:
    """The app of a pipeline at a port of its own; its address and its engine."""
    from served import listening

    from open_musiclm.serving.app import create_page_app
    from open_musiclm.serving.engine import Engine
    from open_musiclm.serving.limits import Limits

    engine = Engine(pipe, "mini", Limits(**limits))
    with listening(create_page_app({"mini": engine})) as url:
        yield url + "/", engine


def main(folder: str) -> None:
    from open_musiclm import MusicLMPipeline, mini_checkpoint

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    pipe = MusicLMPipeline.from_pretrained(mini_checkpoint())
    with app_of(pipe) as (url, _), chromium() as started:
        for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
            with looking(started, url, size) as seen:
                seen.open()
                seen.create("a calm piano melody in a minor key", 6, 0)
                seen.card("create-cards")
                seen.page.wait_for_timeout(500)
                seen.page.screenshot(path=place / f"app-{name}.png", full_page=True)
                for tab in ("Story", "Continue and edit", "Loop", "Compare"):
                    seen.tab(tab)
                    seen.page.wait_for_timeout(700)
                    seen.page.screenshot(path=place / f"{tab.split()[0].lower()}-{name}.png", full_page=True)
    print("\n".join(map(str, sorted(place.glob("*.png")))))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pictures")
