"""Guidance: two branches in one batch, mixed before one draw a sample."""

import pytest
import torch
from tiny import inputs_of, patterned_stage, tiny_stage

from open_musiclm.models.streams import PADDING_ID

STAGES = {
    "flat": lambda **settings: tiny_stage("coarse", condition_dropout=0.2, **settings),
    "delay": lambda **settings: patterned_stage(condition_dropout=0.2, **settings),
    "parallel": lambda **settings: patterned_stage("flat", "parallel", condition_dropout=0.2, **settings),
}


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


def given_of(model, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        s.argument: torch.randint(
            s.codebook_size, (batch, (1 if s.frame_rate is None else 6) * s.num_codebooks), generator=generator
        )
        for s in model.condition_streams
    }


@pytest.mark.parametrize("pattern", STAGES)
class TestGuidance:
    def test_scores_are_those_of_two_calls(self, pattern):
        """Greedy, by hand: with and without conditioning in two forwards, the beginning fed back."""
        model = STAGES[pattern]()
        given, stream = given_of(model), model.predicted_stream
        hidden = {name: torch.full_like(ids, PADDING_ID) for name, ids in given.items()}
        made = model.generate(6, **given, guidance_scale=3.0, do_sample=False)
        with torch.no_grad():
            branches = [model(**each, **{stream.argument: made}).logits[:, : made.flatten(1).shape[1]] for each in (given, hidden)]  # fmt: skip
        mixed = branches[1] + 3.0 * (branches[0] - branches[1])
        assert torch.equal(mixed[..., : stream.codebook_size].argmax(-1), made.flatten(1))
        assert not torch.equal(made, model.generate(6, **given, do_sample=False))

    def test_samples_stay_independent(self, pattern):
        model = STAGES[pattern]()
        given = given_of(model, 3)
        settings = {"guidance_scale": 2.0, "temperature": 0.9}
        together = model.generate(6, **given, generator=generators(3), **settings)
        for place in range(3):
            alone = {name: ids[place : place + 1] for name, ids in given.items()}
            assert torch.equal(
                model.generate(6, **alone, generator=generators(1, place), **settings)[0], together[place]
            )

    def test_scales_that_mean_one_branch(self, pattern):
        """1 is the conditional branch, 0 the other one."""
        model = STAGES[pattern]()
        given = given_of(model)
        make = lambda **settings: model.generate(6, generator=generators(2), **settings)  # noqa: E731
        assert torch.equal(make(**given, guidance_scale=1.0), make(**given))
        assert torch.equal(make(**given, guidance_scale=0.0), make(**{n: torch.full_like(i, -1) for n, i in given.items()}))  # fmt: skip
        assert not torch.equal(make(**given, guidance_scale=0.0), make(**given))

    def test_a_negative_branch_of_ones_own(self, pattern):
        model = STAGES[pattern]()
        given = given_of(model)
        negative = {"clap_token_ids": (given["clap_token_ids"] + 5) % 16}
        make = lambda **settings: model.generate(6, **given, generator=generators(2), guidance_scale=3.0, **settings)  # noqa: E731
        plain, other = make(), make(negative_streams=negative)
        assert not torch.equal(plain, other)
        one = {name: ids[:1] for name, ids in negative.items()}
        both = {name: ids.repeat(2, 1) for name, ids in one.items()}
        assert torch.equal(make(negative_streams=one), make(negative_streams=both)), "one serves all"
        # the same on both sides adds nothing, whatever the scale
        assert torch.equal(make(negative_streams=given), model.generate(6, **given, generator=generators(2)))

    def test_a_beginning_in_pieces(self, pattern):
        model = STAGES[pattern]()
        given, argument = given_of(model), model.predicted_stream.argument
        whole = model.generate(6, **given, guidance_scale=3.0, do_sample=False)
        again = model.generate(6, **given, **{argument: whole[:, :2]}, guidance_scale=3.0, do_sample=False)
        assert torch.equal(again, whole)
        run = model.start_generation(6, **given, guidance_scale=3.0, do_sample=False)
        for frames in (1, 3, 6):
            run.advance(frames)
            assert torch.equal(run.frames[:, :frames], whole[:, :frames])


def test_the_scale_may_be_saved_with_the_stage(tmp_path):
    model = STAGES["delay"]()
    given = given_of(model)
    expected = model.generate(6, **given, generator=generators(2), guidance_scale=3.0)
    model.generation_config.guidance_scale = 3.0
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.generate(6, **given, generator=generators(2)), expected)
    without = again.generate(6, **given, generator=generators(2), guidance_scale=1.0)
    assert not torch.equal(without, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": 3.0}, "never trained without"),
        ({"guidance_scale": float("nan")}, "must be a number, got nan"),
        ({"guidance_scale": "much"}, "must be a number, got 'much'"),
        ({"negative_streams": {}}, "needs a `guidance_scale` other than 1"),
        (
            {
                "guidance_scale": 3.0,
                "force_guidance": True,
                "negative_streams": {"melody_token_ids": torch.zeros(2, 3)},
            },
            "negative branch has no 'melody_token_ids'",
        ),
        (
            {
                "guidance_scale": 3.0,
                "force_guidance": True,
                "negative_streams": {"semantic_token_ids": torch.zeros(2, 3, dtype=torch.long)},
            },
            "they must be as long",
        ),
    ],
)
def test_what_cannot_be_guided_is_refused(settings, message):
    model = tiny_stage("coarse")
    with pytest.raises(ValueError, match=message):
        model.generate(6, **given_of(model), **settings)


def test_force_and_stages_without_conditioning():
    model = tiny_stage("coarse")
    assert model.generate(6, **given_of(model), guidance_scale=3.0, force_guidance=True).shape == (2, 6, 2)
    alone = tiny_stage("semantic", [{"name": "semantic", "codebook_size": 20, "frame_rate": 25.0}])
    with pytest.raises(ValueError, match="no conditioning streams"):
        alone.generate(6, guidance_scale=3.0)
    assert alone.generate(6).shape == (1, 6)


def test_guidance_pulls_towards_the_conditioning():
    """A stage that has learned one token a CLAP id, half of the time hidden: guidance makes it surer."""
    model = patterned_stage("flat", "parallel", condition_dropout=0.5, hidden_dropout=0.0, forgetful_mask_prob=0.0)
    inputs = inputs_of(model, batch=16, frames=4)
    inputs["clap_token_ids"][:] = torch.arange(16)[:, None, None]
    inputs["acoustic_token_ids"] = torch.arange(16)[:, None, None].expand(16, 4, 4).contiguous()
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(40):
        loss = model(**inputs, labels=inputs["acoustic_token_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    truth = inputs.pop("acoustic_token_ids")
    agreement = {}
    for scale in (0.0, 1.0, 3.0):
        made = model.generate(4, **inputs, generator=generators(16), top_k=0, guidance_scale=scale)
        agreement[scale] = (made[:, 0] == truth[:, 0]).float().mean().item()
    assert agreement[0.0] < 0.3 < agreement[1.0] < agreement[3.0], agreement
