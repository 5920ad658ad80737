"""Continuing, editing, looping, remaking recordings; asking for attributes, guidance, stories, references."""

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline, tiny_stage

from open_musiclm import MusicLMPipeline, MusicLMStageConfig, MusicLMStageModel
from open_musiclm.pipelines.mixtures import Mixture, Recording
from open_musiclm.pipelines.seams import seam_measure
from open_musiclm.pipelines.story import Story
from open_musiclm.tokenizers.attributes import find_attribute
from open_musiclm.tokenizers.compatibility import acoustic_stream

RATE = 8000


def tune(seconds, seed=0, rate=RATE):
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    wave = np.concatenate(
        [np.sin(2 * np.pi * f * time[: rate // 2]) for f in rng.uniform(200, 800, int(2 * seconds) + 1)]
    )
    return (0.2 * wave[: len(time)] + rng.normal(0, 0.01, len(time))).astype(np.float32)[None]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def listening_pipeline():
    """A tiny pipeline whose codec tells sounds apart: its codebooks lie among what its random encoder gives."""
    pipe = tiny_pipeline(1)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = pipe.codec.encoder(torch.from_numpy(tune(8.0, 9))[None])[0].T  # (frames, dim)
        for layer in pipe.codec.quantizer.layers:
            size = layer.codebook.embed.shape[0]
            entries = latents[torch.randperm(len(latents), generator=generator)[:size]]
            layer.codebook.embed.copy_(entries)
            nearest = entries[torch.cdist(latents, entries).argmin(dim=1)]
            latents = latents - nearest
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return listening_pipeline()


@pytest.fixture(scope="module")
def guided_pipe():
    """Stages trained with dropout, and a first one that reads attributes."""
    pipe = tiny_pipeline(1)
    streams = [s.to_dict() for s in pipe.semantic_model.streams]
    extra = [
        find_attribute("tempo").default_stream(),
        find_attribute("melody").default_stream(),
        find_attribute("genre").default_stream(vocabulary=["folk", "techno"]),
    ]
    pipe.semantic_model = tiny_stage(
        "semantic", [streams[0], *(s.to_dict() for s in extra), streams[1]], 1, condition_dropout=0.2
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ------------------------------------------------------------------ continuation


def test_a_continuation_keeps_the_recordings_samples_and_does_not_click(pipe):
    audio = tune(5.0)
    continued = pipe.continue_audio((audio, RATE), 3.0, generator=gen())
    assert continued.audios.shape == (1, 1, 8 * RATE)
    assert np.array_equal(continued.audios[0, :, : 5 * RATE], audio)
    assert np.abs(continued.audios[0, :, 5 * RATE :]).max() > 0
    assert seam_measure(continued.audios[0, 0], 5 * RATE, RATE)["click"] < 2
    again = pipe.continue_audio((audio, RATE), 3.0, generator=gen())
    other = pipe.continue_audio((audio, RATE), 3.0, generator=gen(1))
    assert np.array_equal(continued.audios, again.audios)
    assert not np.array_equal(continued.audios, other.audios)


def test_a_continuation_goes_on_from_the_recordings_own_tokens(pipe):
    audio = tune(3.0)
    known = pipe.encode_audio((audio, RATE))
    beginnings = {name: tokens[:, : tokens.shape[1] // 2 * 2] for name, tokens in known.items()}
    made = pipe("a song", audio_length_in_s=6.0, beginnings=beginnings, generator=gen(), return_tokens=True)
    for name, tokens in beginnings.items():
        assert torch.equal(made.tokens[name][:, : tokens.shape[1]], tokens), name
        assert made.tokens[name].shape[1] > tokens.shape[1]
    for name in known:
        free = pipe("a song", audio_length_in_s=6.0, generator=gen(), return_tokens=True).tokens[name]
        assert not torch.equal(free, made.tokens[name])


def test_a_short_recording_at_another_rate_in_stereo_is_continued(pipe):
    audio = np.concatenate([tune(1.3, rate=44_100), tune(1.3, 1, rate=44_100)])
    continued = pipe.continue_audio(
        (audio, 44_100), 1.0, prompt="fast drums", num_variants=2, generator=[gen(), gen(1)]
    )
    assert continued.audios.shape == (2, 2, round(2.3 * 44_100))
    assert np.array_equal(continued.audios[1, :, : audio.shape[1]], audio)


def test_a_draft_is_made_longer(pipe):
    draft = pipe("a song", audio_length_in_s=4.0, generator=gen(), return_tokens=True)
    longer = pipe(
        "a song", audio_length_in_s=8.0, generator=gen(5), beginnings=draft.tokens_made(pipe), return_tokens=True
    )
    for name in pipe.chain.makers:
        known = draft.tokens[name]
        assert torch.equal(longer.tokens[name][:, : known.shape[1]], known), name
    same = 3 * RATE
    np.testing.assert_allclose(longer.audios[..., :same], draft.audios[..., :same], atol=1e-5)


# ----------------------------------------------------------------------- editing


@pytest.mark.parametrize(
    ("way", "new"), [("replace", None), ("replace", 0.7), ("extend", 1.1), ("vary", None), ("repeat", None)]
)
def test_samples_outside_an_edit_stay_as_they_are(pipe, way, new):
    audio = tune(6.0)
    edited = pipe.edit_audio((audio, RATE), 2.0, 3.2, way, new, generator=gen(), num_candidates=2)
    start = {"replace": 2.0, "vary": 2.0}.get(way, 3.2)
    length = 1.2 if new is None else new
    assert edited.start == round(start * RATE)
    assert edited.stop - edited.start == round(length * RATE)
    new_audio = edited.audios[0]
    assert np.array_equal(new_audio[:, : edited.start], audio[:, : edited.start])
    assert np.array_equal(new_audio[:, edited.stop :], audio[:, round(3.2 * RATE) :])
    assert not np.array_equal(new_audio[:, edited.start : edited.stop], audio[:, edited.start : edited.stop])
    for joint in (edited.start, edited.stop):
        assert seam_measure(new_audio[0], joint, RATE)["click"] < 2.5


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.0), (3.0, 4.0)])
def test_an_edit_may_reach_to_either_end(pipe, start, stop):
    audio = tune(4.0)
    edited = pipe.edit_audio((audio, RATE), start, stop, prompt="loud drums", num_candidates=2, generator=gen())
    assert edited.audios.shape == (1, 1, 4 * RATE)
    kept = slice(round(stop * RATE), None) if start == 0 else slice(0, round(start * RATE))
    assert np.array_equal(edited.audios[0][:, kept], audio[:, kept])


def test_of_the_candidates_the_one_that_makes_what_follows_likeliest_is_kept(pipe):
    from open_musiclm.pipelines.editing import following_likelihoods

    audio = tune(6.0)
    generators = [gen(seed) for seed in range(3)]
    edited = pipe.edit_audio((audio, RATE), 2.0, 3.0, num_candidates=3, generator=generators)
    singles = []
    for seed in range(3):
        own = [gen(seed), gen(7)]
        single = pipe.edit_audio((audio, RATE), 2.0, 3.0, num_candidates=2, generator=own)
        singles.append(single.log_likelihoods[0])
    assert edited.log_likelihoods[0] <= max(singles) + 1e-5
    # what truly follows is likelier than what does not: of tokens that the stage itself made greedily
    made = pipe(
        "song", audio_length_in_s=4.0, generator=gen(), return_tokens=True, settings={"do_sample": False}
    ).tokens
    own = {name: made[name][:, round(3 * float(pipe.chain.streams[name].frame_rate)) :] for name in pipe.chain.makers}
    strange = {name: tokens.flip(1) for name, tokens in own.items()}
    scores = [following_likelihoods(pipe, made, following, 3) for following in (own, strange)]
    assert scores[0][0] > scores[1][0]


@pytest.mark.parametrize(
    ("start", "stop", "way", "says"),
    [
        (3.0, 2.0, "replace", "not within"),
        (1.0, 9.0, "replace", "not within the recording's 4.00 s"),
        (-1.0, 2.0, "vary", "not within"),
        (1.0, 1.0, "replace", "no length"),
        (1.0, 2.0, "paint", "replace, extend, vary, repeat"),
        (float("nan"), 2.0, "replace", "`start_in_s` must be a number of seconds"),
    ],
)
def test_a_region_that_is_none_is_refused(pipe, start, stop, way, says):
    with pytest.raises(ValueError, match=says):
        pipe.edit_audio((tune(4.0), RATE), start, stop, way)


def test_an_empty_or_silent_recording_is_refused(pipe):
    with pytest.raises(ValueError, match="silent"):
        pipe.continue_audio((np.zeros((1, RATE)), RATE), 1.0)
    with pytest.raises(ValueError, match="samples"):
        pipe.continue_audio((np.zeros((1, 0)), RATE), 1.0)
    with pytest.raises(ValueError, match="keep"):
        pipe.remake_audio((tune(2.0), RATE), "melody")


def test_a_stage_that_reads_what_follows_is_shown_it():
    pipe = listening_pipeline()
    streams = [s.to_dict() for s in pipe.coarse_model.streams]
    after = {**streams[-1], "name": "later", "context": "after", "context_in_s": 0.5, "optional": True}
    pipe.coarse_model = tiny_stage("coarse", [*streams[:-1], after, streams[-1]], 1, condition_dropout=0.2)
    audio = tune(5.0)
    other = audio.copy()
    other[:, 3 * RATE :] = tune(5.0, 4)[:, 3 * RATE :]
    edits = [
        pipe.edit_audio((a, RATE), 2.0, 3.0, "vary", num_candidates=1, prompt="song", generator=gen()).audios
        for a in (audio, other)
    ]
    region = slice(2 * RATE + RATE // 10, 3 * RATE - RATE // 10)
    assert not np.allclose(edits[0][..., region], edits[1][..., region])


# ------------------------------------------------------------- loops and remaking


def test_a_loops_end_runs_into_its_beginning(pipe):
    loop = pipe("song", audio_length_in_s=6.0, loop=True, generator=gen()).audios[0, 0]
    plain = pipe("song", audio_length_in_s=6.0, generator=gen()).audios[0, 0]
    assert loop.shape == plain.shape
    np.testing.assert_array_equal(loop[: 4 * RATE], plain[: 4 * RATE])
    twice = np.concatenate([loop, loop])
    assert seam_measure(twice, len(loop), RATE)["click"] < 2
    recorded = pipe.loop_audio((tune(5.0), RATE), 0.5, generator=gen())
    assert recorded.audios.shape == (1, 1, 5 * RATE)
    assert np.array_equal(recorded.audios[0, :, : round(4.5 * RATE)], tune(5.0)[:, : round(4.5 * RATE)])
    with pytest.raises(ValueError, match="a quarter"):
        pipe.loop_audio((tune(2.0), RATE), 1.5)


def test_a_loop_with_a_tempo_is_whole_bars(guided_pipe):
    loop = guided_pipe("song", audio_length_in_s=5.0, tempo=100, loop=True, generator=gen()).audios
    assert loop.shape[-1] / RATE == pytest.approx(2 * 4 * 60 / 100, abs=0.05)


def test_a_recording_is_remade_from_its_semantic_tokens_or_its_coarse_ones(pipe):
    audio = tune(5.0)
    for keep in ("semantic", "coarse", ["semantic", "coarse"]):
        remade = pipe.remake_audio((audio, RATE), keep, prompt="loud drums", generator=gen())
        assert remade.shape[0] == 1
        assert abs(remade.shape[-1] - 5 * RATE) <= RATE // 10
    tokens = pipe.encode_audio((audio, RATE), ["coarse"])["coarse"]
    made = pipe("x", audio_length_in_s=4.0, coarse_token_ids=tokens, generator=gen(), return_tokens=True)
    assert torch.equal(made.tokens["coarse"], tokens)


# ---------------------------------------------------- prompts, guidance, attributes


def test_a_story_is_the_parts_one_after_another(pipe):
    parts = [(0, "calm piano"), (4, "fast drums")]
    story = pipe(parts, audio_length_in_s=8.0, generator=gen(), return_tokens=True)
    first = pipe("calm piano", audio_length_in_s=8.0, generator=gen(), return_tokens=True)
    for name in ("semantic", "coarse"):
        frames = round(4 * float(pipe.chain.streams[name].frame_rate))
        assert torch.equal(story.tokens[name][:, :frames], first.tokens[name][:, :frames])
        assert not torch.equal(story.tokens[name], first.tokens[name])
    streamed = np.concatenate(list(pipe.stream(parts, audio_length_in_s=8.0, generator=gen())), axis=-1)
    np.testing.assert_allclose(streamed, story.audios, atol=2e-4)
    moving = pipe(Story((0, 4), ("calm piano", "fast drums"), 4.0), audio_length_in_s=8.0, generator=gen()).audios
    assert moving.shape == story.audios.shape


def test_a_prompt_may_be_a_recording_or_a_mixture(pipe):
    recording = Recording(tune(3.0), RATE)
    tokens = pipe.encode_prompt([recording, Mixture(("calm", recording), (0.4, 0.6)), "calm"])
    assert tokens.shape == (3, 3)
    by_reference = pipe(reference_audio=(tune(3.0), RATE), audio_length_in_s=2.0, generator=gen()).audios
    by_prompt = pipe(recording, audio_length_in_s=2.0, generator=gen()).audios
    by_tokens = pipe(clap_token_ids=tokens[:1], audio_length_in_s=2.0, generator=gen()).audios
    assert np.array_equal(by_reference, by_prompt)
    assert np.array_equal(by_prompt, by_tokens)
    mixed = pipe(
        "calm", reference_audio=recording, reference_weight=0.6, audio_length_in_s=2.0, generator=gen()
    ).audios
    assert np.array_equal(mixed, pipe(clap_token_ids=tokens[1:2], audio_length_in_s=2.0, generator=gen()).audios)
    with pytest.raises(ValueError, match="cannot be combined"):
        pipe([(0, "a"), (1, "b")], reference_audio=recording)


def test_attributes_become_the_streams_tokens(guided_pipe):
    made = guided_pipe(
        ["song", "calm"],
        audio_length_in_s=4.0,
        tempo=120,
        genre="techno+folk",
        melody=[(0, 2, 60)],
        generator=[gen(), gen(1)],
        return_tokens=True,
    ).tokens
    assert made["tempo"].shape == (2, 1)
    assert made["genre"].tolist() == [[1, 0], [1, 0]]
    assert made["melody"][0, :20].unique().tolist() == [0]
    alone = guided_pipe(
        "calm",
        audio_length_in_s=4.0,
        tempo=120,
        genre="techno+folk",
        melody=[(0, 2, 60)],
        generator=[gen(1)],
        return_tokens=True,
    ).tokens
    assert torch.equal(alone["semantic"][0], made["semantic"][1])
    streamed = np.concatenate(
        list(guided_pipe.stream("calm", audio_length_in_s=4.0, tempo=120, melody=[(0, 2, 60)], generator=gen())),
        axis=-1,
    )
    whole = guided_pipe("calm", audio_length_in_s=4.0, tempo=120, melody=[(0, 2, 60)], generator=gen()).audios
    np.testing.assert_allclose(streamed, whole, atol=2e-4)


def test_guidance_goes_to_the_stages_that_were_trained_for_it(guided_pipe, pipe):
    plain = guided_pipe("calm", audio_length_in_s=2.0, generator=gen(), return_tokens=True).tokens
    guided = guided_pipe("calm", audio_length_in_s=2.0, guidance_scale=3.0, generator=gen(), return_tokens=True).tokens
    away = guided_pipe(
        "calm",
        audio_length_in_s=2.0,
        guidance_scale=3.0,
        negative_prompt="fast drums",
        generator=gen(),
        return_tokens=True,
    ).tokens
    assert not torch.equal(plain["semantic"], guided["semantic"])
    assert not torch.equal(away["semantic"], guided["semantic"])
    streamed = list(guided_pipe.stream("calm", audio_length_in_s=2.0, guidance_scale=3.0, generator=gen()))
    whole = guided_pipe("calm", audio_length_in_s=2.0, guidance_scale=3.0, generator=gen()).audios
    np.testing.assert_allclose(np.concatenate(streamed, axis=-1), whole, atol=2e-4)
    guided_pipe.semantic_model.generation_config.guidance_scale = 3.0  # as a stage may be saved
    try:
        asked = [
            guided_pipe(
                "calm", audio_length_in_s=2.0, guidance_scale=scale, generator=gen(), return_tokens=True
            ).tokens
            for scale in (None, 1.0)
        ]
    finally:
        guided_pipe.semantic_model.generation_config.guidance_scale = None
    assert torch.equal(asked[0]["semantic"], guided["semantic"])
    assert torch.equal(asked[1]["semantic"], plain["semantic"])
    with pytest.raises(ValueError, match="condition dropout"):
        pipe("calm", guidance_scale=3.0)
    with pytest.raises(ValueError, match="guidance_scale"):
        guided_pipe("calm", negative_prompt="drums")


def test_what_no_stage_has_is_refused_by_name(pipe, guided_pipe):
    with pytest.raises(ValueError, match="No stage of this pipeline has a stream of melody"):
        pipe("calm", melody=[(0, 1, 60)])
    with pytest.raises(ValueError, match="the nearest it knows: techno"):
        guided_pipe("calm", genre="tekno")
    with pytest.raises(ValueError, match="stream without end"):
        guided_pipe.stream("calm", audio_length_in_s=None, melody=[(0, 1, 60)])
    with pytest.raises(ValueError, match="no beginning"):
        pipe("calm", beginnings={"clap": torch.zeros(1, 3, dtype=torch.long)})


def test_generators_of_candidates_that_nothing_follows(pipe):
    """One a candidate is given where there is nothing to choose by: each variant's first draws."""
    recording = tune(2.0)

    def edited(number: int) -> np.ndarray:
        own = [torch.Generator().manual_seed(seed) for seed in (7, 1, 2, 3)[:number]]
        return pipe.edit_audio(recording, 1.0, 2.0, "vary", generator=own, num_candidates=number).audios

    assert np.array_equal(edited(4), edited(1))


def test_recordings_are_edited_without_a_stage_that_reads_a_prompt():
    """More of the same is asked for where anything can be asked; a stage of an attribute and codes needs nothing."""
    parts = listening_pipeline().components
    codes = acoustic_stream(parts["codec"], "sound", 0, 2)
    attribute = find_attribute("tempo").default_stream()
    torch.manual_seed(0)
    stage = MusicLMStageModel(
        MusicLMStageConfig(
            streams=[attribute.to_dict(), codes.to_dict()],
            window_in_s=2.0,
            window_stride_in_s=1.0,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            head_dim=8,
        )
    ).eval()
    kept = {name: parts[name] for name in ("clap", "clap_processor", "clap_quantizer", "codec")}
    pipe = MusicLMPipeline(**kept, acoustic_model=stage)
    pipe.set_progress_bar_config(disable=True)
    audio = tune(3.0)
    assert pipe.continue_audio((audio, RATE), 1.0, generator=gen()).audios.shape == (1, 1, 4 * RATE)
    assert pipe.edit_audio((audio, RATE), 1.0, 2.0, tempo=120, generator=gen()).audios.shape == (1, 1, 3 * RATE)
    assert pipe.remake_audio((audio, RATE), generator=gen()).shape == (1, 1, 3 * RATE)
    with pytest.raises(ValueError, match="No stage here reads a prompt"):
        pipe.continue_audio((audio, RATE), 1.0, prompt="more drums", generator=gen())
