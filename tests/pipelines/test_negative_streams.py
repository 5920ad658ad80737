"""A negative branch of streams over time: each window of a long piece has its own part of them."""

import numpy as np
import pytest
import torch
from music import music_pipeline
from tiny import tiny_stage

from open_musiclm import MusicLMPipeline


@pytest.fixture(scope="module")
def pipe():
    """Stages that may do without their conditioning."""
    pipe = music_pipeline()
    stages = {}
    for name in ("semantic", "coarse", "fine"):
        streams = [stream.to_dict() for stream in getattr(pipe, f"{name}_model").streams]
        stages[f"{name}_model"] = tiny_stage(name, streams, condition_dropout=0.2)
    kept = {name: part for name, part in pipe.components.items() if part is not None and not name.endswith("_model")}
    guided = MusicLMPipeline(**kept, **stages)
    guided.set_progress_bar_config(disable=True)
    return guided


def draw(size, *shape, seed=0):
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_the_same_on_both_sides_adds_nothing_in_any_window(pipe, stage):
    """Windows that overlap (coarse) and windows side by side (fine), two samples of their own conditioning."""
    tokens = {"clap": draw(16, 2, 3)}
    tokens |= {"semantic": draw(20, 2, 124)} if stage == "coarse" else {"coarse": draw(16, 2, 250, 2)}
    negative = {f"{name}_token_ids": ids for name, ids in tokens.items()}

    def made(**settings):
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        return pipe.generate_tokens(stage, tokens, 5.0, generators, **settings)

    plain = made()
    assert torch.equal(made(guidance_scale=3.0, negative_streams=negative), plain)
    other = {name: ids.flip(1) for name, ids in negative.items()}
    swapped = made(guidance_scale=3.0, negative_streams=other)
    assert swapped.shape == plain.shape
    assert not torch.equal(swapped, plain)
    one = made(guidance_scale=3.0, negative_streams={name: ids[:1] for name, ids in other.items()})
    assert torch.equal(one[0], swapped[0])
    assert not torch.equal(one[1], swapped[1]), "the second sample is led away from the first one's"
    with pytest.raises(ValueError, match="has 3 rows; it takes 1 or 2"):
        made(guidance_scale=3.0, negative_streams={"clap_token_ids": draw(16, 3, 3)})


def test_they_are_taken_as_all_tokens_are(pipe):
    """As lists and arrays, and several codebooks one behind another: cut by frames."""
    tokens = {"clap": draw(16, 1, 3), "coarse": draw(16, 1, 250, 2)}
    negative = {"clap_token_ids": draw(16, 1, 3, seed=1), "coarse_token_ids": draw(16, 1, 250, 2, seed=1)}
    others = [
        {name: ids.tolist() for name, ids in negative.items()},
        {name: ids.numpy().astype(np.uint16) for name, ids in negative.items()},
        {name: ids.flatten(1) for name, ids in negative.items()},
    ]
    made = [
        pipe.generate_tokens(
            "fine", tokens, 5.0, torch.Generator().manual_seed(0), guidance_scale=3.0, negative_streams=given
        )
        for given in (negative, *others)
    ]
    assert all(torch.equal(each, made[0]) for each in made)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (torch.zeros(5, 3, dtype=torch.long), "must be a table of tokens"),
        (["a", "b"], "must be a table of tokens"),
        (-1, "must be a table of tokens"),
        ({"a": 1}, "is not conditioned on 'a'; it takes clap_token_ids"),
        ({1: draw(16, 1, 3)}, "is not conditioned on 1"),
        ({"coarse_token_ids": draw(16, 1, 9, 2)}, "is not conditioned on 'coarse_token_ids'"),
        ({"clap_token_ids": "x"}, "`clap_token_ids` must hold whole numbers|must be a tensor of tokens"),
        ({"clap_token_ids": [[1, 99, 3]]}, "holds the id 99"),
        ({"clap_token_ids": torch.zeros(1, 4, dtype=torch.long)}, "must have one frame of 3 tokens"),
    ],
)
def test_what_is_no_table_of_the_stages_tokens_is_refused(pipe, given, says):
    tokens = {"clap": draw(16, 1, 3), "semantic": draw(20, 1, 99)}
    with pytest.raises(ValueError, match=says) as caught:
        pipe.generate_tokens("coarse", tokens, 1.0, guidance_scale=3.0, negative_streams=given)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=says):
        next(pipe.stream("a", 1.0, coarse_settings={"guidance_scale": 3.0, "negative_streams": given}))


def test_a_call_and_a_stream_heed_them_alike(pipe):
    asked = {
        "semantic_token_ids": draw(20, 1, 99),
        "coarse_settings": {
            "guidance_scale": 2.0,
            "negative_streams": {"semantic_token_ids": draw(20, 1, 99, seed=1)},
        },
    }
    whole = pipe("a calm piano", 3.5, generator=torch.Generator().manual_seed(0), **asked).audios
    pieces = list(pipe.stream("a calm piano", 3.5, generator=torch.Generator().manual_seed(0), **asked))
    assert (np.concatenate(pieces, axis=-1) == whole).all()
    plain = pipe("a calm piano", 3.5, generator=torch.Generator().manual_seed(0), semantic_token_ids=asked["semantic_token_ids"]).audios  # fmt: skip
    assert (plain != whole).any()
