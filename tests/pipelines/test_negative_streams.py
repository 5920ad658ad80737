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
