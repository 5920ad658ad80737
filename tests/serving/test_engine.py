"""The engine: failures that stay with their request, and rows that do not depend on one another."""

import copy

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline, tiny_stage

pytest.importorskip("prometheus_client", reason="needs the extra `app`")

from open_musiclm.pipelines.musiclm import MusicLMPipeline
from open_musiclm.serving.capabilities import capabilities_of
from open_musiclm.serving.engine import Engine
from open_musiclm.serving.exactness import rows_needed
from open_musiclm.serving.limits import Limits, Refusal
from open_musiclm.serving.requests import MusicRequest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("duration_in_s", 1e308),
        ("rows", 10**9),
        ("variants", 10**9),
        ("queue", 0),
        ("text", float("nan")),
        ("rows", "9"),
    ],
)
def test_limits_beyond_all_measure_are_refused(name, value):
    """Before the first request, rows are tried out, as many as there may be."""
    with pytest.raises(ValueError, match=f"The limit `{name}` must be"):
        Limits(**{name: value})


def audio_of(engine: Engine, **fields) -> np.ndarray:
    return engine.submit(MusicRequest("calm piano", 1.0, **fields)).result.result(60)[0].audio


class Small(MusicLMPipeline):
    """Memory for four waveforms."""

    def __call__(self, *args, generator=None, **kwargs):
        if len(generator) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(*args, generator=generator, **kwargs)


class Holding:
    """Keeps an engine busy until it is let go."""

    def __init__(self, engine: Engine):
        self.job = engine.submit(MusicRequest("calm piano", 60.0))
        while not engine.under_way:
            pass
        self.engine = engine

    def let_go(self) -> None:
        self.engine.cancel(self.job)


def test_out_of_memory_fails_that_request_alone(pipe):
    engine = Engine(Small(**pipe.components))
    expected = [audio_of(engine, seed=seed) for seed in range(9)]
    holding = Holding(engine)
    jobs = [engine.submit(MusicRequest("calm piano", 1.0, seed)) for seed in range(5)]
    large = engine.submit(MusicRequest("calm piano", 1.0, num_variants=6))
    jobs += [engine.submit(MusicRequest("calm piano", 1.0, seed)) for seed in range(5, 9)]
    holding.let_go()
    with pytest.raises(Refusal, match="memory"):
        large.result.result(60)
    for job, audio in zip(jobs, expected, strict=True):
        assert np.array_equal(job.result.result(60)[0].audio, audio)
    engine.close()


def test_variants_are_the_pieces_of_the_seeds_behind(pipe):
    engine = Engine(copy.copy(pipe))
    made = engine.submit(MusicRequest("calm piano", 1.0, seed=3, num_variants=3)).result.result(60)
    assert [each.request.seed for each in made] == [3, 4, 5]
    for each in made:
        again = engine.submit(each.request).result.result(60)
        assert np.array_equal(again[0].audio, each.audio)
    best = engine.submit(MusicRequest("calm piano", 1.0, seed=3, num_candidates=3)).result.result(60)[0]
    assert best.similarity is not None
    assert np.array_equal(best.audio, made[best.request.seed - 3].audio)
    engine.close()


def test_progress_and_cancelling(pipe):
    engine = Engine(copy.copy(pipe))
    holding = Holding(engine)
    waits = engine.submit(MusicRequest("calm piano", 1.0))
    assert waits.progress.stage == "waiting"
    while not holding.job.progress.step:
        pass
    assert holding.job.progress.stage in ("semantic", "coarse", "fine")
    assert 0 < holding.job.progress.step <= holding.job.progress.num_steps
    holding.let_go()
    with pytest.raises(Refusal, match="cancelled"):
        holding.job.result.result(30)
    assert waits.result.result(30)
    engine.close()
    with pytest.raises(Refusal, match="stopped"):
        engine.submit(MusicRequest("calm piano", 1.0))


def test_a_text_from_elsewhere_names_no_file(tmp_path, pipe):
    from open_musiclm import write_audio

    write_audio(tmp_path / "a.wav", np.sin(np.arange(8000) / 5), 8000)
    meant = MusicRequest(f"0.5 * {tmp_path / 'a.wav'} + 0.5 * drums").meant
    assert meant.parts == (str(tmp_path / "a.wav"), "drums")


def test_settings_come_back_from_what_a_file_tells():
    request = MusicRequest(
        "0:00 calm | 0:02 drums", 4.0, 7, guidance_scale=3.0, top_k=5, transition_in_s=1.0, attributes={"tempo": 90}
    )
    assert MusicRequest.from_told(request.told()) == request
    hostile = {
        "prompt": ["x"],
        "seed": "1",
        "duration_in_s": None,
        "asked": {"loop": 3, "top_k": "a", "reference": {}},
    }
    assert MusicRequest.from_told(hostile) == MusicRequest()
    assert MusicRequest.from_told({"asked": 4}) == MusicRequest()


def test_capabilities_follow_from_the_streams(pipe):
    found = capabilities_of(pipe)
    assert (found.attributes, found.guidance, found.prompt, found.hears) == ((), False, True, True)
    streams = [
        {"name": "speed", "source": "tempo", "codebook_size": 45, "optional": True},
        {"name": "genre", "codebook_size": 2, "num_codebooks": 2, "pattern": "parallel", "vocabulary": ["rock", "folk"], "optional": True},
        {"name": "clap", "codebook_size": 16, "num_codebooks": 3},
        {"name": "semantic", "codebook_size": 20, "frame_rate": 25.0, "num_edge_frames": 1},
    ]  # fmt: skip
    other = tiny_pipeline()
    other.register_modules(
        semantic_model=tiny_stage("semantic", streams, condition_dropout=0.1), semantic_encoder=None
    )
    found = capabilities_of(other)
    assert [(each.name, each.kind, each.choices) for each in found.attributes] == [
        ("speed", "number", ()),
        ("genre", "choice", ("rock", "folk")),
    ]
    assert found.guidance
    assert not found.hears


def test_rows_are_enough_that_bits_do_not_depend_on_them(pipe):
    """And with fewer they do: what is measured is there."""
    rows = rows_needed(pipe, 16)
    assert rows in (2, 16)
    engine = Engine(copy.copy(pipe), limits=Limits(rows=9))
    alone = [audio_of(engine, seed=seed) for seed in range(9)]
    holding = Holding(engine)
    jobs = [engine.submit(MusicRequest("calm piano", 1.0, seed)) for seed in range(9)]
    holding.let_go()
    for job, audio in zip(jobs, alone, strict=True):
        assert np.array_equal(job.result.result(60)[0].audio, audio)
    engine.close()
