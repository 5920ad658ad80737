"""Items 5 and 6: memory does not grow with the length of what is decoded, and counts beyond all measure are refused."""

import numpy as np
import pytest
import torch
from asking import check_nothing_left, run_command
from codecs_of_all_kinds import CODECS
from tally import VALUES, Tally, pick, seeded

from open_musiclm.tokenizers.codec import as_codec


def largest_input(codec, codes) -> int:
    """Numbers of the largest tensor that any part of a codec was given while it decoded."""
    largest = 0

    def look(module, given, more):
        nonlocal largest
        for value in (*given, *more.values()):
            if isinstance(value, torch.Tensor):
                largest = max(largest, value.numel())

    hooks = [module.register_forward_pre_hook(look, with_kwargs=True) for module in codec.model.modules()]
    try:
        codec.decode(codes)
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def flat_and_whole(codec, random: np.random.Generator) -> None:
    num_codebooks = int(random.integers(1, codec.num_codebooks + 1))
    shape = (int(random.integers(1, 3)), int(random.integers(1, 5 * codec.frames_a_piece)), num_codebooks)
    codes = torch.from_numpy(random.integers(codec.codebook_size, size=shape))
    whole, stream, parts, first = codec.decode(codes), codec.batch_stream(), [], 0
    while first < shape[1]:
        stop = first + codec.frames_a_piece + (0 if first else codec.lookahead)
        parts.append(stream.decode(codes[:, first:stop], last=stop >= shape[1]))
        first = stop
    assert whole.shape == (shape[0], codec.channels, shape[1] * codec.hop_length), tuple(whole.shape)
    assert torch.equal(torch.cat(parts, dim=-1), whole), "the stream gives other samples"


def test_decoding_of_any_length(number):
    tally = Tally("5 codecs, pieces of any length")
    chosen = list(CODECS)[:: number(4, 1)]
    for name in chosen:
        make, *_ = CODECS[name]
        codec = as_codec(make())
        for index in range(number(1, 12)):
            tally.attempt((name, index), lambda codec=codec, index=index: flat_and_whole(codec, seeded(index)))

        def grows(codec=codec):
            sizes = []
            for seconds in (4, 12):
                codes = torch.zeros(1, seconds * round(codec.sampling_rate / codec.hop_length), 1, dtype=torch.long)
                sizes.append(largest_input(codec, codes))
            assert sizes[1] <= sizes[0], f"a part is given {sizes} numbers"

        tally.attempt((name, "memory"), grows)
    tally.finish()


NUMBERS = (
    "0",
    "-1",
    "1e9",
    "1000000000",
    "9" * 30,
    "9" * 5000,
    "nan",
    "inf",
    "-inf",
    "1e308",
    "1e-300",
    "0x10",
    "1_000_000_000",
    "",
    " ",
    "½",
    "٣٣٣٣٣٣",
)
OPTIONS = ("--num-samples", "--num-candidates", "--duration", "--seed", "--threads", "--temperature", "--guidance-scale",
           "--reference-weight", "--transition", "--tempo", "--timing")  # fmt: skip


def test_numbers_of_the_command(pipeline_folder, tmp_path, number, capsys):
    """Wrong usage is exit code 2, what cannot be meant 1, in one line; nothing is left behind."""
    tally = Tally("6 numbers of the command")
    output = tmp_path / "out.wav"

    def command(random):
        arguments = [
            "generate",
            "a song",
            "--model",
            str(pipeline_folder),
            "--device",
            "cpu",
            "-o",
            str(output),
            "--duration",
            "0.5",
        ]
        for _ in range(random.integers(1, 3)):
            arguments += [pick(random, OPTIONS) + "=" + pick(random, NUMBERS)]
        code, said = run_command(arguments, capsys)
        check_nothing_left(tmp_path, code, said)
        if code:
            raise ValueError("refused")

    for index in range(number(8, 250)):
        tally.attempt(index, lambda index=index: command(seeded(index)))
    tally.finish()


COUNTS = (
    "num_waveforms_per_prompt",
    "num_candidates",
    "num_variants",
    "num_waveforms",
    "audio_length_in_s",
    "new_length_in_s",
)


@pytest.mark.filterwarnings("ignore")
def test_counts_of_calls(pipe, number):
    """Nothing is begun that would not end."""
    tally = Tally("6 counts of calls", (ValueError,), 700)
    large = [
        value
        for value in VALUES
        if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < 100
    ]
    recording = (np.sin(np.arange(12_000) / 9)[None], 8000)
    ways = {
        "call": lambda name, value: pipe("a", **{"audio_length_in_s": 0.5, name: value}),
        "stream": lambda name, value: next(pipe.stream("a", **{"audio_length_in_s": 0.5, name: value})),
        "continue": lambda name, value: pipe.continue_audio(recording, **{"audio_length_in_s": 0.5, name: value}),
        "edit": lambda name, value: pipe.edit_audio(recording, 0.5, 1.0, pick(seeded(0), ("repeat", "replace")), **{name: value}),
        "extend": lambda name, value: pipe.edit_audio(recording, 1.0, 1.0, "extend", **{"new_length_in_s": 0.5, name: value}),
        "remake": lambda name, value: pipe.remake_audio(recording, **{name: value}),
    }  # fmt: skip

    def refuse(way, name, value):
        made = ways[way](name, value)
        raise AssertionError(f"made {type(made).__name__}")

    cases = [(way, name, value) for way in ways for name in COUNTS for value in large]
    random = seeded(0)
    for place in random.permutation(len(cases))[: number(40, len(cases))]:
        tally.attempt(cases[place], lambda place=place: refuse(*cases[place]))
    tally.finish()
