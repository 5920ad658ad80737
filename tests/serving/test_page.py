"""The page, in a real Chromium, on the model in the box: `pytest -m slow tests/serving/test_page.py`."""

import json
import time

import numpy as np
import pytest

pytest.importorskip("gradio", reason="needs the extra `app`")
pytest.importorskip("playwright", reason="needs playwright: pip install playwright")

from pictures import CHROMIUM, PHONE, app_of, chromium, looking

from open_musiclm import MusicLMPipeline, mini_checkpoint, write_audio
from open_musiclm.audio import read_metadata
from open_musiclm.evaluation.listening.results import count_wins, read_results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def app():
    pipe = MusicLMPipeline.from_pretrained(mini_checkpoint())
    with app_of(pipe, duration_in_s=60.0) as (url, engine):
        yield url, engine


@pytest.fixture(scope="module")
def started():
    with chromium() as started:
        yield started


@pytest.fixture
def seen(app, started):
    with looking(started, app[0]) as seen:
        seen.open()
        yield seen
        assert not seen.foreign
        assert not seen.faults


@pytest.fixture
def recording(tmp_path):
    times = np.arange(3 * 24000) / 24000
    audio = 0.3 * np.sin(2 * np.pi * 220 * times) * (1 + 0.5 * np.sin(2 * np.pi * 2 * times))
    write_audio(tmp_path / "played.wav", audio, 24000)
    return tmp_path / "played.wav", audio


def loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


def test_a_piece_its_address_and_its_file(seen, app, started, tmp_path):
    """Made, not silent, heard while it is made; made again from its address, and from its file dropped on the page."""
    seen.create("a calm piano melody", 3, seed=11)
    card = seen.card("create-cards")
    samples = seen.samples(card)
    assert len(samples) == 3 * 24000
    assert loudness(samples) > 1e-3
    assert any("/page/sound/" in address for address in seen.asked)
    assert "seed 11" in card.inner_text()
    assert "CLAP similarity" in card.inner_text()
    ink = card.locator("canvas.spectrum").evaluate(
        "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
    )
    assert ink > 20  # a picture, not a surface
    address = seen.page.url
    assert "settings=" in address
    with looking(started, app[0], PHONE) as other:
        other.open(address)
        other.page.wait_for_function("document.querySelector('#prompt textarea').value === 'a calm piano melody'")
        other.page.click("#create")
        assert np.array_equal(other.samples(other.card("create-cards")), samples)
        wide = other.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0  # nothing stands beyond a phone's edge
        assert not other.foreign
        assert not other.faults
    file = tmp_path / "dropped.wav"
    file.write_bytes(seen.file(card))
    assert read_metadata(file.read_bytes())["seed"] == 11
    seen.open()
    seen.page.set_input_files("#dropped input[type=file]", file)
    seen.page.wait_for_function("document.querySelector('#seed input').value === '11'")
    seen.page.focus("#create")
    seen.page.keyboard.press("Enter")  # by keyboard
    assert np.array_equal(seen.samples(seen.card("create-cards")), samples)


def test_settings_of_the_models_own_streams(seen):
    seen.page.locator("#attribute-tempo input").fill("90")
    seen.page.locator("#attribute-key input").click()
    seen.page.get_by_role("option", name="A minor").click()
    seen.number("variants", 2)
    seen.create("strings", 2, seed=5)
    card = seen.card("create-cards")
    assert card.locator("audio").count() == 2
    told = read_metadata(seen.file(card, 1))
    assert (told["seed"], told["asked"]) == (6, {"tempo": 90, "key": "A minor"})
    seen.page.locator("#attribute-tempo input").fill("9")
    seen.page.click("#create")
    assert "40 to 240" in seen.card("create-cards", "failed").inner_text()


def test_stopping_a_long_one(seen, app):
    seen.create("drums", 60)
    card = seen.card("create-cards", "making")
    seen.page.wait_for_function("document.querySelector('#create-cards progress')?.value > 0")
    card.get_by_role("button", name="Stop").click()
    assert "Stopped" in seen.card("create-cards", "stopped").inner_text()
    engine = app[1]
    deadline = time.monotonic() + 20
    while any((engine.streams, engine.under_way, engine.waiting)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any((engine.streams, engine.under_way, engine.waiting))


def test_an_upload_is_continued_and_a_region_made_anew(seen, recording):
    file, audio = recording
    seen.tab("Continue and edit")
    seen.page.set_input_files("#edit-upload input[type=file]", file)
    chosen = seen.card("edit-chosen")
    seen.number("edit-duration", 2)
    seen.page.click("#change")
    longer = seen.samples(seen.card("edit-cards"))
    assert len(longer) == pytest.approx(5 * 24000, abs=2)
    assert np.abs(longer[: 2 * 24000] - audio[: 2 * 24000]).max() < 1e-3
    assert loudness(longer[3 * 24000 :]) > 1e-4

    box = chosen.locator("canvas.wave").bounding_box()
    seen.page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 20)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 20, steps=5)
    seen.page.mouse.up()
    start = float(seen.page.locator("#edit-start input").input_value())
    stop = float(seen.page.locator("#edit-stop input").input_value())
    assert (start, stop) == pytest.approx((1.0, 1.8), abs=0.05)
    seen.page.locator("#edit-way").get_by_text("make the region anew").click()
    seen.page.click("#change")
    seen.page.wait_for_function("document.querySelectorAll('#edit-cards music-card[drawn]').length === 2")
    edited = seen.samples(seen.page.locator("#edit-cards music-card").first)
    assert len(edited) == len(audio)
    outside = np.r_[0 : round((start - 0.1) * 24000), round((stop + 0.1) * 24000) : len(audio)]
    assert np.abs(edited[outside] - audio[outside]).max() < 1e-3
    inside = slice(round((start + 0.2) * 24000), round((stop - 0.2) * 24000))
    assert np.abs(edited[inside] - audio[inside]).max() > 0.01


def test_buttons_of_a_piece(seen):
    seen.create("a bright organ", 2, seed=1)
    first = seen.samples(seen.card("create-cards"))
    buttons = (("Longer", 4.0), ("Vary", 2.0), ("Keep the tune, change the sound", 2.0), ("Again", 2.0))
    for number, (name, length) in enumerate(buttons, start=2):
        seen.page.locator("#create-cards music-card").last.get_by_role("button", name=name, exact=True).click()
        seen.page.wait_for_function(
            f"document.querySelectorAll('#create-cards music-card[drawn]').length === {number}"
        )
        samples = seen.samples(seen.page.locator("#create-cards music-card").first)
        assert len(samples) == pytest.approx(length * 24000, abs=2400)
        assert loudness(samples) > 1e-4
        assert (np.abs(samples[:24000] - first[:24000]).max() < 1e-3) == (name == "Longer")
    seen.page.locator("#create-cards music-card").last.get_by_role("button", name="Edit", exact=True).click()
    assert len(seen.samples(seen.card("edit-chosen"))) == len(first)


def test_a_story_and_a_loop(seen):
    seen.tab("Story")
    seen.number("story-duration", 4)
    seen.page.click("#tell")
    card = seen.card("story-cards")
    told = read_metadata(seen.file(card))
    assert told["prompt"] == "0 s a calm piano melody | 8 s strings in a major key"
    assert len(seen.samples(card)) == 4 * 24000
    seen.tab("Loop")
    seen.page.fill("#loop-prompt textarea, #loop-prompt input", "drums")
    seen.number("loop-duration", 3)
    seen.page.click("#make-loop")
    assert len(seen.samples(seen.card("loop-cards"))) == 4 * 24000  # two bars at 120


def test_a_comparison_is_read_by_evaluate(seen, tmp_path):
    seen.tab("Compare")
    seen.page.fill("#compare-prompt textarea, #compare-prompt input", "a calm piano melody")
    seen.number("compare-duration", 1)
    seen.page.click("#make-pair")
    seen.page.wait_for_function("document.querySelectorAll('#pair music-card[drawn]').length === 2")
    card = seen.page.locator("#pair music-card").first
    assert "seed" not in card.inner_text()
    assert read_metadata(seen.file(card)) == {}  # blinded
    seen.page.locator("#rating").get_by_text("B clearly").click()
    seen.page.wait_for_function("document.querySelector('#rated').innerText.includes('1 of 1')")
    downloads = []
    seen.page.on("download", lambda download: downloads.append(download))
    seen.page.click("#save-answers")
    deadline = time.monotonic() + 20
    while len(downloads) < 2 and time.monotonic() < deadline:
        seen.page.wait_for_timeout(100)
    for download in downloads:
        download.save_as(tmp_path / download.suggested_filename)
    ratings, warnings = read_results([str(tmp_path / "answers.json")], str(tmp_path))
    wins = count_wins(ratings, warnings)
    (pair,) = json.loads((tmp_path / "listening_key.json").read_text())["pairs"].values()
    assert wins.wins[pair["b"]] == 1
    assert {pair["a"], pair["b"]} == {"mini", "mini guidance_scale=3"}
