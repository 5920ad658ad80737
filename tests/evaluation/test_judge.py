"""The arithmetic of the judge of the model in the box; what other people's packages hear is not tested here."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
RATE = 24_000


@pytest.fixture(scope="module", autouse=True)
def judges():
    """The example's modules, which import one another by their plain names."""
    folder = str(Path(__file__).parents[2] / "examples" / "mini")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def noise(seconds=4, seed=0):
    return np.random.default_rng(seed).standard_normal(seconds * RATE)


def test_a_comb_is_heard_at_its_own_spacing_only():
    from judges.sound import line_height, mean_spectrum

    times = np.arange(4 * RATE) / RATE
    comb = sum(np.sin(2 * np.pi * 250 * k * times + k) for k in range(1, 41))
    spectrum = mean_spectrum(0.1 * noise() + 0.1 * comb, RATE)
    assert line_height(spectrum, 250) > 20
    assert abs(line_height(mean_spectrum(noise(), RATE), 250)) < 1.5
    assert line_height(spectrum, 170) < line_height(spectrum, 250) / 5  # one line in 25 is in both


def test_the_height_of_lines_is_that_of_the_spectrum():
    from judges.sound import line_height

    spectrum = np.ones(12_001)
    spectrum[50::50] = 100.0
    assert line_height(spectrum, 50) == pytest.approx(20.0)
    assert line_height(spectrum, 100) == pytest.approx(20.0)
    assert line_height(spectrum, 30, highest=30) == pytest.approx(0.0)


def test_energy_above_two_kilohertz():
    from judges.sound import figures

    times = np.arange(2 * RATE) / RATE
    low, high = np.sin(2 * np.pi * 500 * times), np.sin(2 * np.pi * 5000 * times)
    assert figures(low + high, RATE)["above 2 kHz"] == pytest.approx(10 * np.log10(0.5), abs=0.01)
    assert figures(0.5 * (low + 0.1 * high), RATE)["above 2 kHz"] == pytest.approx(-10 * np.log10(101), abs=0.01)
    half = np.concatenate([low, np.zeros_like(low)])
    assert figures(half, RATE)["seconds silent"] == pytest.approx(2.0)
    assert figures(low, RATE)["level"] == pytest.approx(-3.01, abs=0.01)


def test_the_prompts_that_come_with_it_are_in_balance():
    from judges.attributes import ATTRIBUTES
    from judges.prompts import TABLE, read_table

    prompts = read_table(TABLE)
    assert len(prompts) == len({prompt.text for prompt in prompts}) == 200
    for some in (prompts[:60], prompts):
        counts = Counter(item for prompt in some for item in prompt.stated.items())
        for name, classes in ATTRIBUTES.items():
            stated = [counts[name, value] for value in classes]
            assert sum(stated) >= len(some) / 2
            assert max(stated) - min(stated) <= 2


def test_real_clips_have_what_the_prompts_ask_for():
    from judges.attributes import class_of
    from judges.prompts import TABLE, clips_that_fit, read_table
    from render import make_score

    prompts = read_table(TABLE)[:12]
    indices = clips_that_fit(prompts, seed=5, length_in_s=10.0)
    assert len(set(indices)) == len(prompts)
    for prompt, index in zip(prompts, indices, strict=True):
        truth = make_score(index, "heldout", 5, 10.0)[0].truth
        assert {name: class_of(name, getattr(truth, name)) for name in prompt.stated} == prompt.stated
        assert truth.start_in_s + 10 <= truth.total_length_in_s


def test_a_table_of_wrong_classes_is_refused(tmp_path):
    from judges.prompts import read_table

    (tmp_path / "table.csv").write_text("id,prompt,tempo\n1,brisk tune,presto\n")
    with pytest.raises(ValueError, match="'presto' is no class of tempo; they are slow, medium, fast"):
        read_table(tmp_path / "table.csv")


def test_a_judge_who_guesses_is_left_out_by_name():
    from judges.opinions import form_opinion

    rng = np.random.default_rng(0)
    values = [str(v) for v in rng.choice(["quiet", "loud", "medium"], size=120)]
    level = {"quiet": -30.0, "medium": -22.0, "loud": -12.0}
    numbers = [
        {"meter": np.array([level[v] + rng.normal(), rng.normal()]), "dice": rng.normal(size=3)} for v in values
    ]
    opinion = form_opinion("loudness", numbers, values)
    assert list(opinion.classifiers) == ["meter"]
    assert list(opinion.left_out) == ["dice"]
    assert opinion.accuracies["meter"] > 0.95
    assert opinion([{"meter": np.array([-31.0, 0.0])}, {"meter": np.array([-10.0, 0.0])}]) == ["quiet", "loud"]


def test_only_what_was_asked_for_counts():
    from judges.opinions import Opinion
    from judges.prompts import Prompt
    from judges.table import count_right, margin

    prompts = [Prompt("0", "slow", {"tempo": "slow"}), Prompt("1", "loud", {"loudness": "loud"}),
               Prompt("2", "fast", {"tempo": "fast"})]  # fmt: skip
    assert count_right(Opinion("tempo"), ["slow", "slow", "slow"], prompts) == (1, 2)
    # Wilson 1927: 80 of 100 lie between 71.1 and 86.7 %
    assert margin(0.8, 100) == pytest.approx((0.8667 - 0.7112) / 2, abs=2e-4)


def test_the_second_clap_learns_what_a_caption_asks_for():
    """On made-up spectrograms: one band sounds or another, and a caption names it or leaves it open."""
    from judges.second_clap import NUM_FRAMES, NUM_MELS, area_under_curve, captions_that_fit, train

    rng = np.random.default_rng(0)
    records, mels = [], []
    for number in range(160):
        instrument = ("flute", "organ")[number % 2]
        mel = rng.normal(-4, 0.3, size=(NUM_FRAMES, NUM_MELS))
        mel[:, 10 + 30 * (number % 2)] += 3
        mels.append(mel.astype(np.float16))
        captions = [{"text": f"a {instrument} piece", "requires": {"instrument": [instrument]}},
                    {"text": "a piece", "requires": {}}]  # fmt: skip
        records.append({"truth": {"instrument": instrument, "tempo": "slow"}, "captions": captions})
    fits = captions_that_fit(records)
    assert fits.shape == (320, 160)
    assert fits[1].all()
    assert fits[0].tolist() == [True, False] * 80
    mels = torch.from_numpy(np.stack(mels))
    clap = train(mels[:128], records[:128], num_steps=30, seed=0)
    with torch.no_grad():
        scores = (clap.embed_texts(["a flute piece", "a organ piece"]) @ clap.embed_audio(mels[128:]).T).numpy()
    assert area_under_curve(scores, fits[[0, 2]][:, 128:].numpy()) > 0.95


def test_area_under_the_curve_counts_ties_half():
    from judges.second_clap import area_under_curve

    scores, fits = np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])
    assert area_under_curve(scores, fits) == pytest.approx((2 + 0.5 + 0) / 4)


def test_a_row_with_all_real_tokens_hears_no_prompt(pipeline_folder, tmp_path):
    """Codec only: neither prompt nor seed. With real coarse tokens both have a say again."""
    from judges.handover import MAKERS, Job
    from judges.hearing import Clip
    from judges.prompts import Prompt

    from open_musiclm.audio import write_audio

    write_audio(tmp_path / "clip.wav", 0.3 * np.random.default_rng(0).standard_normal(4 * 8000), 8000)
    made = {}
    for row in ("codec", "coarse"):
        for seed, text in ((0, "piano"), (1, "drums")):
            job = Job(
                row,
                str(pipeline_folder),
                (Prompt("0", text, {}),),
                (Clip(str(tmp_path / "clip.wav")),),
                (tmp_path / "0.wav",),
                (seed,),
                2.0,
            )
            audio, rate = MAKERS[row](job)
            made[row, seed] = np.asarray(audio)
            assert made[row, seed].shape[-1] == 2 * rate
    assert np.array_equal(made["codec", 0], made["codec", 1])
    assert not np.array_equal(made["coarse", 0], made["coarse", 1])
    assert not np.array_equal(made["coarse", 0], made["codec", 0])
