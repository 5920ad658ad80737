"""Whatever a call is given, it makes music or says in one line, as a `ValueError`, what was given and what is needed."""

import math

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline


@pytest.fixture(scope="module")
def pipe():
    pipeline = tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def refused(pipe, message=".", **arguments):
    with pytest.raises(ValueError, match=message) as caught:
        pipe(**{"audio_length_in_s": 0.5, **arguments})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "prompt", [3, 2.5, True, b"a", {"a": 1}, {1}, [], [3], "", [""], ["a", None], object(), np.array(["a"]), "a" * 9 + "\ud800"]
)  # fmt: skip
def test_prompts(pipe, prompt):
    refused(pipe, "prompt", prompt=prompt)


@pytest.mark.parametrize("length", ["1", None, math.nan, 1e100, 10**400, -1, 0, True, 1j, [1], math.inf, 1e-9])
def test_lengths(pipe, length):
    refused(pipe, "audio_length_in_s|hold no sample", prompt="a", audio_length_in_s=length)


@pytest.mark.parametrize("name", ["num_waveforms_per_prompt", "num_candidates"])
@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True, 10**9, 10**400, [1], math.nan])
def test_counts(pipe, name, count):
    refused(pipe, "whole number|more than one call", prompt="a", **{name: count})


@pytest.mark.parametrize(
    "tokens",
    ["x", 3, [], [[1], [2, 3]], [["a"]], torch.ones(1, 3), torch.ones(1, 3, dtype=torch.complex64), torch.tensor([0, 7, 9]),
     torch.ones(1, 0, dtype=torch.long), torch.full((1, 3), 999), torch.full((1, 3), -5), object(), [[10**30]]],
)  # fmt: skip
def test_tokens(pipe, tokens):
    refused(pipe, "clap_token_ids|token", clap_token_ids=tokens)


def test_tokens_as_lists_and_arrays(pipe):
    ids = pipe.encode_prompt("a")
    made = [
        pipe(clap_token_ids=tokens, audio_length_in_s=0.5, generator=torch.Generator().manual_seed(0)).audios
        for tokens in (ids, ids.tolist(), ids.numpy(), ids.int())
    ]
    assert all(np.array_equal(audio, made[0]) for audio in made)


@pytest.mark.parametrize("convert", [torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.int])
def test_steps_take_tokens_as_a_call_does(pipe, convert):
    def by_steps(given):
        tokens = {"clap": given(pipe.encode_prompt("a"))}
        for stage in ("semantic", "coarse", "fine"):
            made = pipe.generate_tokens(stage, tokens, 0.5, torch.Generator().manual_seed(0))
            assert isinstance(made, torch.Tensor)
            tokens[stage] = given(made)
        named = pipe.generate_fine_tokens(tokens["clap"], tokens["coarse"], 0.5, torch.Generator().manual_seed(0))
        assert torch.equal(named, torch.as_tensor(tokens["fine"]))
        return pipe.decode_tokens(tokens["coarse"], tokens["fine"], 0.5)

    assert torch.equal(by_steps(convert), by_steps(lambda tokens: tokens))


STEPS = {
    "no table": lambda pipe: pipe.generate_tokens("semantic", 3, 0.5),
    "no stage": lambda pipe: pipe.generate_tokens(3, {}, 0.5),
    "another stream": lambda pipe: pipe.generate_tokens("semantic", {"melody": [[1, 2, 3]]}, 0.5),
    "text": lambda pipe: pipe.generate_tokens("semantic", {"clap": "abc"}, 0.5),
    "no length": lambda pipe: pipe.generate_tokens("semantic", {"clap": [[1, 2, 3]]}, "1"),
    "on_token": lambda pipe: pipe.generate_tokens("semantic", {"clap": [[1, 2, 3]]}, 0.5, None, 3),
    "part of the codebooks": lambda pipe: pipe.generate_semantic_tokens([[1, 2]], 0.5),
    "beyond": lambda pipe: pipe.generate_semantic_tokens([[1, 2, 16]], 0.5),
    "a float": lambda pipe: pipe.generate_coarse_tokens([[1, 2, 3]], [[0.5] * 50], 0.5),
    "too short": lambda pipe: pipe.generate_coarse_tokens([[1, 2, 3]], [[0] * 5], 0.5),
    "to decode": lambda pipe: pipe.decode_streams(None),
    "unequal": lambda pipe: pipe.decode_tokens([[[1, 2]]], [[[1, 2, 3], [1, 2, 3]]]),
    "padding": lambda pipe: pipe.decode_tokens([[[1, 2]]], [[[1, 2, -1]]]),
    "cut to nothing": lambda pipe: pipe.decode_tokens([[[1, 2]]], [[[1, 2, 3]]], math.nan),
    "no streams": lambda pipe: pipe.encode_audio((np.ones((1, 8000)), 8000), ["x"]),
    "beginnings": lambda pipe: pipe("a", audio_length_in_s=0.5, beginnings=[1]),
    "rows": lambda pipe: pipe("a", audio_length_in_s=0.5, beginnings={"semantic": [[1], [2], [3]]}),
    "a stream's rows": lambda pipe: pipe.stream("a", audio_length_in_s=0.5, beginnings={"semantic": [[1], [2]]}),
    "a stream's window": lambda pipe: pipe.stream("a", first_window_in_s="x"),
}  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_steps_refuse_what_a_call_refuses(pipe, step):
    with pytest.raises(ValueError, match=r".") as caught:
        STEPS[step](pipe)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("argument", ["settings", "semantic_settings"])
@pytest.mark.parametrize("value", [3, "x", [1], [("temperature", 1)], {3}, {1: 2}])
def test_settings_that_are_no_table(pipe, argument, value):
    refused(pipe, f"`{argument}` must be a table of settings", prompt="a", **{argument: value})


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no way to show this")


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "do_sample", "use_cache", "bad_words_ids", "nope"])
def test_settings_that_cannot_be_shown(pipe, name):
    """transformers writes values into its warnings; with others that are odd too, it would fail there."""
    refused(pipe, name, prompt="a", semantic_settings={"do_sample": False, name: Odd()})


@pytest.mark.parametrize(
    "setting",
    [{"temperature": value} for value in (0, -1, math.nan, math.inf, "x", [1])]
    + [{"top_k": value} for value in (-1, 1.5, "x", math.nan)]
    + [{"top_p": value} for value in (2, -1, math.nan, "x")]
    + [{"num_beams": 4}, {"nope": 1}, {"num_return_sequences": 2}, {"guidance_scale": math.nan}, {"fast": "x"}],
)
def test_settings_of_sampling(pipe, setting):
    refused(pipe, next(iter(setting)), prompt="a", semantic_settings=setting)


@pytest.mark.parametrize(
    "others",
    [{"output_type": "pil"}, {"output_type": None}, {"callback_on_step_end": 3}, {"generator": "x"}, {"generator": [None]},
     {"generator": []}, {"generator": [torch.Generator()] * 3}, {"guidance_scale": "x"}, {"nope": 1}],
)  # fmt: skip
def test_the_rest(pipe, others):
    refused(pipe, prompt="a", **others)
