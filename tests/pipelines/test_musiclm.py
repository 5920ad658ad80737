import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_clap, tiny_codec, tiny_pipeline, tiny_quantizers, tiny_stage

from open_musiclm import ClapQuantizer, ClapQuantizerConfig, MusicLMPipeline
from open_musiclm.pipelines import pieces
from open_musiclm.pipelines.pieces import cut_conditions, generate_piece
from open_musiclm.pipelines.windows import plan_windows
from open_musiclm.tokenizers.compatibility import check_components


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ the call


@settings(deadline=None, max_examples=12)
@given(length=st.one_of(st.floats(0.05, 9.0), st.sampled_from([1.0, 2.0, 4.0, 7.0, 10.0])))
def test_the_audio_is_exactly_as_long_as_asked(length):
    pipe = test_the_audio_is_exactly_as_long_as_asked.pipe
    audios = pipe("a calm piano", audio_length_in_s=length, generator=seeded()).audios
    assert audios.shape == (1, 1, round(length * pipe.sampling_rate))
    assert audios.dtype == np.float32
    assert np.isfinite(audios).all()


@pytest.fixture(autouse=True)
def _give_pipe_to_hypothesis(pipe):
    test_the_audio_is_exactly_as_long_as_asked.pipe = pipe


def test_one_seed_one_song(pipe):
    first, second, other = (pipe("a piano", 3.0, generator=seeded(seed)).audios for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()
    assert (pipe("slow drums", 3.0, generator=seeded(1)).audios != first).any(), "the prompt must matter"


def test_a_prompt_sounds_in_a_batch_as_it_does_alone(pipe):
    prompts = ["fast drums", "a calm piano", "x"]
    together = pipe(prompts, 5.5, generator=[seeded(index) for index in range(3)]).audios
    for index, prompt in enumerate(prompts):
        alone = pipe(prompt, 5.5, generator=seeded(index)).audios
        np.testing.assert_allclose(together[index], alone[0], atol=1e-5)


def test_several_waveforms_a_prompt(pipe):
    audios = pipe(["a", "b"], 1.0, num_waveforms_per_prompt=2, generator=[seeded(i) for i in range(4)]).audios
    assert audios.shape == (4, 1, 8000)
    np.testing.assert_allclose(audios[3], pipe("b", 1.0, generator=seeded(3)).audios[0], atol=1e-5)
    assert (audios[0] != audios[1]).any()


def test_save_and_load(pipe, pipeline_folder):
    again = MusicLMPipeline.from_pretrained(pipeline_folder)
    again.set_progress_bar_config(disable=True)
    assert (again("a", 2.0, generator=seeded()).audios == pipe("a", 2.0, generator=seeded()).audios).all()
    endings = {path.suffix for path in pipeline_folder.rglob("*") if path.is_file()}
    assert endings <= {".safetensors", ".json", ".txt", ".md", ".py"}
    assert not list(pipeline_folder.rglob("*.bin"))


def test_published_names_are_a_promise(pipeline_folder):
    """What stands in model_index.json is read by every later version: it is never renamed."""
    index = json.loads((pipeline_folder / "model_index.json").read_text())
    assert {name: value for name, value in index.items() if not name.startswith("_")} == {
        "clap": ["transformers", "ClapModel"],
        "clap_processor": ["transformers", "ClapProcessor"],
        "clap_quantizer": ["open_musiclm", "ClapQuantizer"],
        "semantic_model": ["open_musiclm", "MusicLMSemanticModel"],
        "coarse_model": ["open_musiclm", "MusicLMCoarseModel"],
        "fine_model": ["open_musiclm", "MusicLMFineModel"],
        "codec": ["transformers", "EncodecModel"],
        "semantic_encoder": ["transformers", "HubertModel"],
        "semantic_quantizer": ["open_musiclm", "SemanticQuantizer"],
    }


def test_audio_input_parts_are_optional(pipe, tmp_path):
    parts = dict(pipe.components, semantic_encoder=None, semantic_quantizer=None)
    MusicLMPipeline(**parts).save_pretrained(tmp_path)
    again = MusicLMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.semantic_encoder is None
    assert (again("a", 1.0, generator=seeded()).audios == pipe("a", 1.0, generator=seeded()).audios).all()


def test_bfloat16_pipeline_keeps_its_codebooks(pipe, pipeline_folder):
    half = MusicLMPipeline.from_pretrained(pipeline_folder, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.semantic_model.dtype == torch.bfloat16
    assert half.clap_quantizer.fingerprint == pipe.clap_quantizer.fingerprint
    assert np.isfinite(half("a", 1.0).audios).all()


def test_each_step_can_be_skipped_by_passing_its_result(pipe):
    whole = pipe("a", 3.0, generator=seeded(), output_type="pt").audios
    clap = pipe.encode_prompt("a")
    assert clap.shape == (1, 3)
    assert torch.equal(
        pipe(clap_token_ids=clap, audio_length_in_s=3.0, generator=seeded(), output_type="pt").audios, whole
    )

    from open_musiclm.decoding.sampling import spawn_generators

    own = spawn_generators([seeded()], 3)
    semantic = pipe.generate_semantic_tokens(clap, 3.0, own[0])
    coarse = pipe.generate_coarse_tokens(clap, semantic, 3.0, own[1])
    fine = pipe.generate_fine_tokens(clap, coarse, 3.0, own[2])
    assert semantic.shape == (1, 74)
    assert coarse.shape == (1, 150, 2)
    assert fine.shape == (1, 150, 3)
    assert torch.equal(pipe.decode_tokens(coarse, fine, 3.0), whole)
    for known in (
        {"semantic_token_ids": semantic},
        {"coarse_token_ids": coarse},
        {"coarse_token_ids": coarse, "fine_token_ids": fine},
    ):
        audios = pipe(clap_token_ids=clap, audio_length_in_s=3.0, generator=seeded(), output_type="pt", **known).audios
        assert torch.equal(audios, whole)


def test_progress_bar_counts_every_step(pipe):
    counted = {}

    class Bar:
        def __init__(self, total):
            counted.update(total=total, done=0)

        def set_description(self, text):
            counted.setdefault("said", []).append(text.strip())

        def update(self, number):
            counted["done"] += number

        def close(self):
            counted["closed"] = True

    own = MusicLMPipeline(**pipe.components)
    own.progress_bar = lambda total: Bar(total)
    for length in (0.5, 5.3):
        own("a", length)
        assert counted["done"] == counted["total"] > 0
        assert counted["closed"]
        assert counted["said"][-4:] == ["semantic", "coarse", "fine", "waveform"]
    own(
        clap_token_ids=torch.zeros(1, 3, dtype=torch.long),
        coarse_token_ids=torch.zeros(1, 50, 2, dtype=torch.long),
        audio_length_in_s=1.0,
    )
    assert counted["done"] == counted["total"] == 50 * 3


# ------------------------------------------------------------- long pieces


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_windows_see_what_belongs_to_their_time(pipe, stage):
    """Every call of a stage gets conditioning of the very time that it generates."""
    model = tiny_stage(stage)
    grid, duration = pipe.time_grid, 5 * pipe.time_grid * 25
    calls = []
    start = model.start_generation

    def record(num_frames, **arguments):
        calls.append((num_frames, arguments))
        return start(num_frames, **arguments)

    model.start_generation = record
    # conditioning ids that tell their own time, as far as their codebook goes
    semantic = (torch.arange(5 * 25 - 1) % 20)[None]
    coarse = (torch.arange(5 * 50) % 16)[None, :, None].expand(1, -1, 2)
    conditions = {
        "clap_token_ids": torch.zeros(1, 3, dtype=torch.long),
        "semantic_token_ids": semantic,
        "coarse_token_ids": coarse,
    }
    piece = generate_piece(model, conditions, duration, grid, [seeded()])
    assert piece.shape[:2] == (1, 250)
    if stage == "coarse":
        assert len(calls) == 4
        for second, (num_frames, arguments) in enumerate(calls):
            assert num_frames == 100
            assert torch.equal(arguments["semantic_token_ids"], semantic[:, second * 25 : second * 25 + 49])
            if second:
                assert torch.equal(arguments["coarse_token_ids"], piece[:, second * 50 : (second + 1) * 50])
    else:
        [(num_frames, arguments)] = calls  # side by side: one batch
        assert num_frames == 50
        assert torch.equal(arguments["coarse_token_ids"], coarse[0].reshape(5, 50, 2))
        assert len(arguments["generator"]) == 5


def test_independent_windows_do_not_depend_on_how_they_are_batched(monkeypatch, pipe):
    clap = torch.zeros(2, 3, dtype=torch.long)
    coarse = torch.randint(16, (2, 230, 2), generator=seeded())
    results = []
    for size in (64, 3, 1):
        monkeypatch.setitem(pieces.ROWS_A_BATCH, "cpu", size)
        results.append(pipe.generate_fine_tokens(clap, coarse, 4.6, [seeded(1), seeded(2)]))
    assert results[0].shape == (2, 230, 3)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_last_window_that_reaches_back_keeps_what_was_made(pipe):
    clap = torch.zeros(1, 3, dtype=torch.long)
    semantic = pipe.generate_semantic_tokens(clap, 5.4, seeded(3))
    shorter = pipe.generate_semantic_tokens(clap, 4.0, seeded(3))
    assert torch.equal(semantic[:, : shorter.shape[1]], shorter)


def test_conditions_are_cut_by_time(pipe):
    window = plan_windows(pipe.time_grid * 100, pipe.time_grid * 50, pipe.time_grid * 25, pipe.time_grid)[1]
    conditions = {
        "clap_token_ids": torch.zeros(1, 3, dtype=torch.long),
        "semantic_token_ids": torch.arange(99)[None],
    }
    cut = cut_conditions(pipe.coarse_model, conditions, window)
    assert cut["semantic_token_ids"][0].tolist() == list(range(25, 74))
    assert cut["clap_token_ids"].shape == (1, 3)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "says something"),
        ({"prompt": ["a", "  "]}, "says something"),
        ({"prompt": []}, "empty list"),
        ({"prompt": [3]}, "says something"),
        ({}, "one of the two"),
        ({"prompt": "a", "clap_token_ids": torch.zeros(1, 3, dtype=torch.long)}, "one of the two"),
        ({"prompt": "a", "audio_length_in_s": 0}, "audio_length_in_s"),
        ({"prompt": "a", "audio_length_in_s": -1.0}, "audio_length_in_s"),
        ({"prompt": "a", "audio_length_in_s": float("nan")}, "audio_length_in_s"),
        ({"prompt": "a", "audio_length_in_s": float("inf")}, "audio_length_in_s"),
        ({"prompt": "a", "audio_length_in_s": "10"}, "audio_length_in_s"),
        ({"prompt": "a", "num_waveforms_per_prompt": 0}, "num_waveforms_per_prompt"),
        ({"prompt": "a", "output_type": "wav"}, "output_type"),
        ({"prompt": ["a", "b"], "generator": [seeded()]}, "1 generators for a batch of 2"),
        ({"clap_token_ids": torch.full((1, 3), 16)}, "16"),
        ({"clap_token_ids": torch.zeros(1, 3)}, "whole numbers"),
        ({"prompt": "a", "semantic_token_ids": torch.zeros(1, 5, dtype=torch.long)}, "5 frames"),
        ({"prompt": "a", "coarse_token_ids": torch.zeros(1, 5, 2, dtype=torch.long)}, "5 frames"),
        ({"prompt": "a", "coarse_token_ids": torch.zeros(1, 50, 4, dtype=torch.long)}, "4 codebooks"),
        ({"prompt": "a", "semantic_settings": {"heat": 1.0}}, "heat"),
        ({"prompt": "a", "fine_token_ids": torch.zeros(1, 50, 3, dtype=torch.long)}, "need the `coarse_token_ids`"),
        (
            {
                "prompt": "a",
                "coarse_token_ids": torch.zeros(1, 50, 2, dtype=torch.long),
                "fine_token_ids": torch.full((1, 50, 3), 16),
            },
            "fine_token_ids.*16",
        ),
        (
            {
                "prompt": "a",
                "coarse_token_ids": torch.zeros(1, 50, 2, dtype=torch.long),
                "fine_token_ids": torch.zeros(1, 49, 3, dtype=torch.long),
            },
            "one batch size and number of frames",
        ),
    ],
)
def test_bad_input_is_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{"audio_length_in_s": 1.0, **arguments})


def other_clap_quantizer():
    return ClapQuantizer(ClapQuantizerConfig(codebook_size=16, num_quantizers=3, embedding_dim=16))


@pytest.mark.parametrize(
    ("part", "make", "message"),
    [
        ("clap_quantizer", other_clap_quantizer, "Codebooks differ.*clap_quantizer"),
        ("semantic_quantizer", lambda: tiny_quantizers(5)[1], "Codebooks differ.*semantic_quantizer"),
        ("codec", lambda: tiny_codec(5), "Codebooks differ.*codec"),
        ("codec", lambda: tiny_codec(codebook_size=32), "codebook_size is 16.*32"),
        ("codec", lambda: tiny_codec(num_codebooks=4), "has 4 codebooks; asked for 2 to 5"),
        (
            "semantic_model",
            lambda: tiny_stage(
                "semantic",
                [
                    {"name": "clap", "codebook_size": 16, "num_codebooks": 4},
                    {"name": "semantic", "codebook_size": 20, "frame_rate": 25.0, "num_edge_frames": 1},
                ],
            ),
            "num_codebooks is 4.*3",
        ),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(pipe, part, make, message):
    with pytest.raises(ValueError, match=message):
        MusicLMPipeline(**dict(pipe.components, **{part: make()}))


def test_a_mismatch_is_refused_when_loading_too(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    other_clap_quantizer().save_pretrained(tmp_path / "clap_quantizer")
    with pytest.raises(ValueError, match=r"sha256:[0-9a-f]{16}.*sha256:[0-9a-f]{16}"):
        MusicLMPipeline.from_pretrained(tmp_path)


def test_stages_must_agree_with_each_other():
    pipeline = tiny_pipeline()
    streams = [dict(stream) for stream in pipeline.coarse_model.config.streams]
    streams[1]["codebook_fingerprint"] = "sha256:0000000000000000"
    other = tiny_stage("coarse", streams)
    with pytest.raises(ValueError, match=r"semantic_model.*sha256:.*coarse_model.*sha256:0000000000000000"):
        check_components({"semantic_model": pipeline.semantic_model, "coarse_model": other})
    streams[1]["codebook_fingerprint"] = None  # unknown passes
    check_components({"semantic_model": pipeline.semantic_model, "coarse_model": tiny_stage("coarse", streams)})


def test_clap_of_another_size_is_refused(pipe):
    clap, _ = tiny_clap()
    clap.config.projection_dim = 32
    with pytest.raises(ValueError, match=r"embedding's size is 32.*16"):
        MusicLMPipeline(**dict(pipe.components, clap=clap))


def test_a_callback_sees_every_step_of_every_stage(pipe):
    """And changes nothing of the audio."""
    seen = []

    def callback(of, step, num_steps, info):
        assert of is pipe
        seen.append((step, num_steps, info["stage"]))

    made = pipe("a calm piano", 1.0, generator=seeded(0), callback_on_step_end=callback).audios
    np.testing.assert_array_equal(made, pipe("a calm piano", 1.0, generator=seeded(0)).audios)
    steps, totals, stages = zip(*seen, strict=True)
    assert list(steps) == list(range(len(seen)))
    assert set(totals) == {len(seen)}
    assert list(dict.fromkeys(stages)) == ["semantic_model", "coarse_model", "fine_model"]
    # only the stages that run
    seen.clear()
    semantic = pipe.generate_semantic_tokens(pipe.encode_prompt("a calm piano"), 1.0, seeded(0))
    pipe("a calm piano", 1.0, semantic_token_ids=semantic, callback_on_step_end=callback)
    assert seen[0][2] == "coarse_model"


@pytest.mark.parametrize("last", ["semantic_model", "coarse_model", "fine_model"])
def test_a_call_can_be_interrupted_in_any_stage_and_the_next_one_is_whole(pipe, last):
    seen = []

    def callback(of, step, num_steps, info):
        seen.append(step)
        of._interrupt = info["stage"] == last

    made = pipe("a calm piano", 1.0, callback_on_step_end=callback, output_type="pt")
    assert made.audios.shape == (1, 1, 0)
    num_seen = len(seen)
    assert pipe("a calm piano", 1.0).audios.shape == (1, 1, 8000)
    assert len(seen) == num_seen


def test_the_bar_names_the_stage_that_runs(pipe, capsys):
    pipe.set_progress_bar_config(disable=False, mininterval=0)
    try:
        pipe("a calm piano", 1.0)
    finally:
        pipe.set_progress_bar_config(disable=True)
    bar = capsys.readouterr().err
    places = [bar.index(name) for name in ("semantic", "coarse", "fine", "waveform")]
    assert places == sorted(places)
    assert "100%" in bar


def test_decoding_up_to_a_stream_runs_no_stage_behind_it(pipe):
    steps = []
    rough = pipe(
        "calm piano",
        audio_length_in_s=2.0,
        generator=torch.Generator().manual_seed(0),
        decode_up_to="coarse",
        return_tokens=True,
        callback_on_step_end=lambda pipe, step, count, told: steps.append(told["stage"]),
    )
    assert set(steps) == {"semantic_model", "coarse_model"}
    assert "fine" not in rough.tokens
    whole = pipe("calm piano", audio_length_in_s=2.0, generator=torch.Generator().manual_seed(0), return_tokens=True)
    assert torch.equal(rough.tokens["coarse"], whole.tokens["coarse"])
    assert rough.audios.shape == whole.audios.shape
    expected = pipe.decode_streams({"coarse": rough.tokens["coarse"]}, 2.0)
    np.testing.assert_array_equal(rough.audios, expected.numpy())
    with pytest.raises(ValueError, match="one of the streams of codes, coarse, fine; got 'semantic'"):
        pipe("calm piano", audio_length_in_s=1.0, decode_up_to="semantic")
    with pytest.raises(ValueError, match="A loop is closed by every stage"):
        pipe("calm piano", audio_length_in_s=4.0, decode_up_to="coarse", loop=True)
