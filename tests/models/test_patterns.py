"""Where tokens stand in a sequence (arithmetic), and stages whose streams lie in patterns."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import inputs_of, patterned_stage, tiny_stage

from open_musiclm import TokenStream
from open_musiclm.models.patterns import (
    lay,
    num_known_steps,
    num_steps,
    num_steps_to_make,
    num_whole_frames,
    places_to_draw,
    take_up,
)
from open_musiclm.models.streams import PADDING_ID, PATTERNS

PATTERN_PAIRS = [("flat", "delay"), ("parallel", "delay"), ("delay", "parallel"), ("parallel", "parallel")]


def stream_of(pattern: str, num_codebooks: int) -> TokenStream:
    return TokenStream("any", 16, num_codebooks, 10.0, pattern=pattern)


# ---------------------------------------------------------------- arithmetic


@given(st.sampled_from(PATTERNS), st.integers(1, 5), st.integers(1, 7))
def test_laying_comes_back_and_counts_its_steps(pattern, num_codebooks, num_frames):
    stream = stream_of(pattern, num_codebooks)
    ids = torch.randint(16, (2, num_frames * num_codebooks))
    steps = lay(ids, stream)
    assert steps.shape[1] == num_steps(stream, num_frames)
    assert torch.equal(take_up(steps, stream), ids)
    assert num_whole_frames(stream, steps.shape[1]) == num_frames
    assert (steps != PADDING_ID).sum() == ids.numel()
    assert not (steps == PADDING_ID).all(-1).any(), "no step is empty"


def test_delay_is_that_of_the_paper():
    stream = stream_of("delay", 3)
    ids = torch.arange(6)[None]  # frames 0 1 2 | 3 4 5
    assert lay(ids, stream)[0].T.tolist() == [[0, 3, -1, -1], [-1, 1, 4, -1], [-1, -1, 2, 5]]
    assert lay(ids, stream_of("parallel", 3))[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert lay(ids, stream_of("flat", 3))[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]


@given(st.sampled_from(PATTERNS), st.integers(1, 5), st.integers(1, 7), st.data())
def test_what_is_left_to_draw(pattern, num_codebooks, num_frames, data):
    stream = stream_of(pattern, num_codebooks)
    num_given = data.draw(st.integers(0, num_frames))
    places = places_to_draw(stream, num_given, num_frames)
    known = num_known_steps(stream, num_given)
    assert places.sum() == (num_frames - num_given) * num_codebooks
    assert not places[:known].any(), "a known step holds nothing that is still to be drawn"
    assert num_given == num_frames or places[known:].any(-1).all(), "each step that is made draws something"
    assert num_steps_to_make(stream, num_given, num_frames) == (len(places) - known if num_given < num_frames else 0)


def test_logits_are_taken_up_like_tokens():
    stream = stream_of("delay", 3)
    ids = torch.randint(16, (2, 12))
    onehot = F.one_hot(lay(ids, stream).clamp(min=0), 16)
    assert torch.equal(take_up(onehot, stream).argmax(-1), ids)


# -------------------------------------------------------------------- stages


@pytest.mark.parametrize("patterns", PATTERN_PAIRS)
def test_shapes_and_sequence_lengths(patterns):
    model = patterned_stage(*patterns)
    inputs = inputs_of(model)
    outputs = model(**inputs, output_condition_logits=True)
    assert outputs.logits.shape == (2, 24, 17)
    extra = 1 if patterns[0] == "flat" else 0  # EOS is for the flat pattern
    assert [logits.shape[1] for logits in outputs.condition_logits] == [3 + extra, 6 + extra]
    in_steps = model(
        **{**inputs, "acoustic_token_ids": lay(inputs["acoustic_token_ids"].flatten(1), model.predicted_stream)},
        in_steps=True,
    ).logits
    assert in_steps.shape == (2, num_steps(model.predicted_stream, 6) + 1, 4, 17)
    assert torch.equal(take_up(in_steps[:, :-1], model.predicted_stream), outputs.logits)


def test_prefixes_are_shorter():
    rows = {}
    for pattern in PATTERNS:
        model = patterned_stage(pattern)
        steps = {s.name: lay(inputs_of(model)[s.argument].flatten(1), s) for s in model.streams}
        rows[pattern] = model.embed_sequence(steps, True, True)[2][:2]
    assert rows == {"flat": [5, 8], "delay": [4, 5], "parallel": [2, 4]}


def test_a_step_is_the_sum_of_its_embeddings():
    model = patterned_stage()
    table = model.embeddings["acoustic"].weight
    step = torch.tensor([[[3, PADDING_ID, 5, PADDING_ID]]])
    torch.testing.assert_close(model.embed_steps(step, model.predicted_stream)[0, 0], table[3] + table[2 * 16 + 5])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_causality_by_gradient(pattern):
    """The logits of (frame t, codebook q) see exactly the tokens in earlier steps, and all of the conditioning."""
    model = patterned_stage("parallel", pattern, hidden_dropout=0.0)
    inputs = inputs_of(model, batch=1, frames=4)
    stream = model.predicted_stream
    inputs["acoustic_token_ids"] = torch.arange(16).view(1, 4, 4)  # each token a row of its own
    step_of = {"flat": lambda t, q: 4 * t + q, "delay": lambda t, q: t + q, "parallel": lambda t, q: t}[pattern]
    for frame in range(4):
        for codebook in range(4):
            model.zero_grad()
            model(**inputs).logits[0, 4 * frame + codebook].sum().backward()
            gradient = model.embeddings[stream.name].weight.grad.abs().sum(-1)
            for t in range(4):
                for q in range(4):
                    seen = gradient[4 * t + q + 16 * q] > 0
                    assert seen == (step_of(t, q) < step_of(frame, codebook)), (frame, codebook, t, q)
            assert model.embeddings["clap"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("pattern", PATTERNS)
def test_loss_counts_real_tokens_only(pattern):
    model = patterned_stage("parallel", pattern)
    inputs = inputs_of(model)
    labels = inputs["acoustic_token_ids"].clone()
    labels[0, 2:] = -100
    inputs["acoustic_token_ids"][0, 2:] = PADDING_ID
    outputs = model(**inputs, labels=labels)
    logits, wanted = outputs.logits[:, :24], labels.flatten(1)
    if pattern == "flat":
        eos = torch.tensor([[-100], [16]])
        logits, wanted = outputs.logits, torch.cat([wanted, eos], dim=1)
    manual = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)
    torch.testing.assert_close(outputs.loss, manual)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("patterns", PATTERN_PAIRS)
def test_greedy_tokens_are_those_of_the_training_forward(patterns, fast):
    """Teacher forcing on what was generated predicts it: so both lay it in the same way, to the last frame."""
    model = patterned_stage(*patterns)
    given = inputs_of(model)
    given.pop("acoustic_token_ids")
    made = model.generate(6, **given, do_sample=False, fast=fast)
    assert made.shape == (2, 6, 4)
    again = model(**given, acoustic_token_ids=made).logits[..., :16].argmax(-1)
    assert torch.equal(again.view_as(made), made)
    assert len(made.unique()) > 4


@pytest.mark.parametrize("patterns", PATTERN_PAIRS)
def test_ways_caches_and_pieces_make_the_same_tokens(patterns):
    model = patterned_stage(*patterns, position_bias_type="t5", max_position_embeddings=64)
    given = inputs_of(model, batch=3)
    beginning = given.pop("acoustic_token_ids")[:, :2]
    for prime in ({}, {"acoustic_token_ids": beginning}):
        settings = {**given, **prime, "temperature": 0.9, "top_k": 5}
        whole = model.generate(6, generator=generators(3), **settings)
        assert torch.equal(whole, model.generate(6, generator=generators(3), fast=False, **settings))
        assert torch.equal(whole, model.generate(6, generator=generators(3), fast=False, use_cache=False, **settings))
        if prime:
            assert torch.equal(whole[:, :2], beginning)
        run = model.start_generation(6, generator=generators(3), **settings)
        for frames in (1, 2, 3, 6):
            run.advance(frames)
            assert torch.equal(run.frames, whole[:, : run.frames.shape[1]])
            assert run.frames.shape[1] >= frames
        alone = model.generate(
            6,
            generator=generators(3)[1],
            **{name: ids[1:2] if isinstance(ids, torch.Tensor) else ids for name, ids in settings.items()},
        )
        assert torch.equal(alone[0], whole[1]), "a sample depends on its own generator only"


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize("pattern", ["delay", "parallel"])
def test_a_beginning_is_continued_as_if_never_left(pattern):
    model = patterned_stage("parallel", pattern)
    given = inputs_of(model)
    given.pop("acoustic_token_ids")
    whole = model.generate(8, **given, do_sample=False)
    for frames in (1, 3, 8):
        assert torch.equal(whole, model.generate(8, **given, acoustic_token_ids=whole[:, :frames], do_sample=False))


@pytest.mark.parametrize(("pattern", "steps"), [("flat", 24), ("delay", 9), ("parallel", 6)])
def test_steps_are_fewer_and_reported(pattern, steps):
    model, seen = patterned_stage("parallel", pattern), []
    given = inputs_of(model)
    given.pop("acoustic_token_ids")
    model.generate(6, **given, on_token=seen.append)
    assert seen == list(range(1, steps + 1))


def test_processors_see_each_codebook_by_itself():
    seen = []

    def processor(input_ids, scores):
        seen.append(input_ids.shape[1])
        return scores

    model = patterned_stage()
    given = inputs_of(model)
    given.pop("acoustic_token_ids")
    made = model.generate(3, **given, generator=generators(2), logits_processor=[processor])
    assert seen == [step - codebook if step > codebook else 0 for step in range(6) for codebook in range(4)]
    assert torch.equal(made, model.generate(3, **given, generator=generators(2)))


def test_a_cache_goes_on_in_steps():
    model = patterned_stage()
    inputs = inputs_of(model)
    steps = lay(inputs.pop("acoustic_token_ids").flatten(1), model.predicted_stream)
    with torch.no_grad():
        whole = model(**inputs, acoustic_token_ids=steps, in_steps=True).logits
        first = model(**inputs, acoustic_token_ids=steps[:, :3], in_steps=True)
        rest = model(acoustic_token_ids=steps[:, 3:], past_key_values=first.past_key_values, in_steps=True).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], dim=1), whole, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="in_steps=True"):
        model(acoustic_token_ids=steps[:, 3:], past_key_values=first.past_key_values)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(2, 7, dtype=torch.long), "whole frames of 4"),
        (torch.zeros(2, 3, 3, dtype=torch.long), "codebooks"),
    ],
)
def test_broken_frames_are_refused(ids, message):
    model = patterned_stage()
    with pytest.raises(ValueError, match=message):
        model(**{**inputs_of(model), "acoustic_token_ids": ids})


def test_a_pattern_that_there_is_not():
    with pytest.raises(ValueError, match="pattern must be one of"):
        TokenStream("any", 16, 2, 10.0, pattern="vertical")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_stage_learns_clips_and_gives_them_back(pattern):
    """Ten clips by heart: what is trained in a pattern is what is generated in it."""
    model = patterned_stage("parallel", pattern, hidden_dropout=0.0, forgetful_mask_prob=0.0, hidden_size=64).train()
    inputs = inputs_of(model, batch=10, frames=8, seed=5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(**inputs, labels=inputs["acoustic_token_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clips = inputs.pop("acoustic_token_ids")
    made = model.eval().generate(8, **inputs, do_sample=False)
    assert (made == clips).float().mean() > 0.98


def test_the_published_stage_is_unchanged_by_a_pattern_of_one_codebook():
    """With one codebook delay and parallel are the flat pattern, but for EOS."""
    model = tiny_stage("semantic")
    streams = [*model.config.streams[:1], {**model.config.streams[1], "pattern": "delay"}]
    other = tiny_stage("semantic", streams)
    other.load_state_dict(model.state_dict())
    clap = torch.randint(16, (2, 3))
    made = [each.generate(7, clap_token_ids=clap, generator=generators(2)) for each in (model, other)]
    assert torch.equal(*made)
