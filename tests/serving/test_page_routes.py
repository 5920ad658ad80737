"""What the page's cards and controls ask for, without a browser."""

import copy
import json

import numpy as np
import pytest

pytest.importorskip("gradio", reason="needs the extra `app`")

from served import Served, listening

from open_musiclm.audio import read_metadata
from open_musiclm.pipelines.mixtures import Recording
from open_musiclm.serving.app import create_page_app
from open_musiclm.serving.capabilities import AttributeControl, Capabilities
from open_musiclm.serving.engine import Engine
from open_musiclm.serving.limits import Limits
from open_musiclm.serving.page.compare import Comparison
from open_musiclm.serving.page.controls import request_of, told_in_address, values_of
from open_musiclm.serving.page.shelf import Shelf
from open_musiclm.serving.requests import MusicRequest


@pytest.fixture(scope="module")
def shelf(pipe):
    engine = Engine(copy.copy(pipe), "tiny", Limits(duration_in_s=100.0))
    yield Shelf({"tiny": engine})
    engine.close(finish=False)


@pytest.fixture(scope="module")
def served(shelf):
    from fastapi import FastAPI

    from open_musiclm.serving.http import add_handlers
    from open_musiclm.serving.page.routes import routes_of

    app = FastAPI()
    app.include_router(routes_of(shelf))
    add_handlers(app)
    with listening(app) as url:
        yield Served(shelf.engines["tiny"], url)


def states(answer) -> list[dict]:
    return [json.loads(event.removeprefix("data: ")) for event in answer.body.decode().split("\n\n") if event]


def test_a_piece_on_its_way(served, shelf):
    token = shelf.ask("tiny", MusicRequest("calm piano", 2.0, seed=3))
    sound = served.ask(f"/page/sound/{token}")
    told = states(served.ask(f"/page/job/{token}"))[-1]
    assert told["state"] == "done"
    assert told["made"][0]["told"]["seed"] == 3
    assert told["made"][0]["similarity"] is not None
    file = served.ask(f"/page/file/{token}/0.wav").body
    assert sound.body in file
    assert read_metadata(file)["prompt"] == "calm piano"
    for how, length in (("again", 2.0), ("longer", 4.0), ("vary", 2.0), ("sound", 2.0)):
        other = served.ask("/page/again", {"token": token, "how": how, "prompt": "fast drums"}).json["token"]
        (made,) = states(served.ask(f"/page/job/{other}"))[-1]["made"]
        assert made["length"] == pytest.approx(length, abs=0.1), how
        assert served.ask(f"/page/file/{other}/0.flac").body != file
    assert served.ask(f"/page/file/{token}/1.wav").status == 400
    assert served.ask("/page/job/unknown").status == 400


def test_stopping(served, shelf):
    token = shelf.ask("tiny", MusicRequest("calm piano", 100.0))
    assert served.ask(f"/page/stop/{token}", {}).status == 200
    assert states(served.ask(f"/page/job/{token}"))[-1]["state"] == "stopped"


def test_the_oldest_make_room(shelf, monkeypatch):
    second = Recording(np.ones((1, 8000)), 8000)
    first = shelf.keep(second, "first")
    monkeypatch.setattr("open_musiclm.serving.page.shelf.MOST_BYTES", 100_000)
    names = [shelf.keep(second, str(number)) for number in range(4)]
    assert shelf.get(names[-1]).recording is second
    with pytest.raises(ValueError, match="no longer"):
        shelf.get(first)


def test_a_comparison_hides_which_is_which(shelf):
    comparison = Comparison()
    sides = {name: ("tiny", MusicRequest("calm piano", 1.0, top_k=top)) for name, top in (("few", 2), ("many", 12))}
    orders = {comparison.pairs[comparison.add(shelf, sides)]["a"] for _ in range(20)}
    assert orders == {"few", "many"}  # but once in half a million
    with pytest.raises(ValueError, match="two models"):
        comparison.add(shelf, {"few": sides["few"]})
    with pytest.raises(ValueError, match="rated with"):
        comparison.rate("pair-001", 3)


def test_controls_hold_what_an_address_tells():
    controls = (
        AttributeControl("tempo", "number", "", least=40.0, most=240.0),
        AttributeControl("genre", "choice", "", ("rock", "folk"), most=2),
        AttributeControl("key", "choice", "", ("A minor",), most=1),
        AttributeControl("lyrics", "text", ""),
    )
    able = Capabilities(8000, 1, True, controls, True, True, ())
    names = [
        "prompt",
        "duration",
        "seed",
        "variants",
        "guidance",
        "candidates",
        "temperature",
        "top_k",
        "negative",
        "loop",
    ]
    names += [f"attribute-{control.name}" for control in controls]
    request = MusicRequest(
        "calm", 4.0, 9, 2, guidance_scale=3.0, attributes={"tempo": 90, "genre": "rock+folk", "lyrics": "a"}
    )
    told = told_in_address(json.dumps(request.told()))
    values = dict(zip(names, values_of(told, names, able), strict=True))
    assert request_of(values, able, Limits()) == request
    nothing = dict(zip(names, values_of({}, names, able), strict=True))
    assert request_of(nothing, able, Limits()) == MusicRequest()
    for wrong in ("[1]", "{", '"x"', None, '{"asked": [], "prompt": 3}'):
        assert MusicRequest.from_told(told_in_address(wrong)) == MusicRequest()


def test_the_page_asks_for_its_key_and_holds_nothing_from_elsewhere(pipe):
    engine = Engine(copy.copy(pipe), "tiny")
    with listening(create_page_app({"tiny": engine}, "secret")) as url:
        served = Served(engine, url)
        assert served.ask("/v1/models").status == 401
        page = served.ask("/").body.decode()
        assert "auth_required" in page
        assert "What should it sound like" not in page
        served.key = "secret"
        assert served.speak().status == 200
