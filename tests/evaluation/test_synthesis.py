import shutil

import numpy as np
import pytest
import soundfile
import torch
from evaluation_networks import save_audioldm2, save_stable_audio

from open_musiclm.audio import read_metadata
from open_musiclm.evaluation.prompts import Prompt
from open_musiclm.evaluation.systems.synthesis import seed_of_prompt, synthesize
from open_musiclm.evaluation.systems.system import FolderSystem, MusicLMSystem, NoiseSystem, load_system, system_name

PROMPTS = [
    Prompt(f"p{i}", text)
    for i, text in enumerate(["a calm piano", "fast drums", "größe ♯ 音楽", "slow guitar", "bright"])
]


class Interrupted(Exception):
    pass


class Counting(NoiseSystem):
    """Noise that counts its calls and can break off."""

    max_batch_size = 2

    def __init__(self, fail_at=None):
        super().__init__("counting", 8000)
        self.calls, self.fail_at = [], fail_at

    def generate(self, prompts, seeds, length_in_s):
        if len(self.calls) == self.fail_at:
            raise Interrupted
        self.calls.append(list(prompts))
        return super().generate(prompts, seeds, length_in_s)


def audio_of(folder):
    return {path.name: soundfile.read(path)[0] for path in sorted(folder.glob("*.flac"))}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_run_that_stopped_goes_on_and_ends_the_same(tmp_path, batch_size):
    whole = Counting()
    synthesize(whole, PROMPTS, tmp_path / "whole", 0.5, seed=3, batch_size=batch_size)
    broken = Counting(fail_at=1)
    with pytest.raises(Interrupted):
        synthesize(broken, PROMPTS, tmp_path / "broken", 0.5, seed=3, batch_size=batch_size)
    assert len(audio_of(tmp_path / "broken")) == batch_size
    again = Counting()
    made = synthesize(again, PROMPTS, tmp_path / "broken", 0.5, seed=3, batch_size=batch_size)
    assert len(again.calls) == len(whole.calls) - 1
    ours, theirs = audio_of(tmp_path / "broken"), audio_of(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert not list((tmp_path / "broken").glob(".*"))
    assert list(made.records) == [prompt.id for prompt in PROMPTS]
    third = Counting()
    assert synthesize(third, PROMPTS, tmp_path / "broken", 0.5, seed=3, batch_size=batch_size) == made
    assert third.calls == []


def test_a_damaged_file_is_made_again(tmp_path):
    synthesize(Counting(), PROMPTS, tmp_path, 0.5)
    whole = audio_of(tmp_path)
    (tmp_path / "p1.flac").write_bytes(b"")
    (tmp_path / "p3.flac").write_bytes((tmp_path / "p3.flac").read_bytes()[:7])
    again = Counting()
    synthesize(again, PROMPTS, tmp_path, 0.5)
    assert len(again.calls) == 2
    assert all((audio_of(tmp_path)[name] == audio).all() for name, audio in whole.items())


def test_ours_is_another_system_with_another_codec_or_temperature(nets):
    system = load_system(f"ours={nets / 'pipeline'}")
    before = system.describe()
    assert set(before["weights"]) >= {
        "semantic_model",
        "coarse_model",
        "fine_model",
        "codec",
        "clap",
        "clap_quantizer",
    }
    assert system.describe() == before
    system.pipeline.semantic_model.generation_config.temperature = 0.31
    cooler = system.describe()
    assert cooler != before
    with torch.no_grad():
        next(system.pipeline.codec.parameters()).add_(1e-3)
    assert system.describe() != cooler


def test_records(tmp_path):
    ticks = iter(range(100))
    made = synthesize(Counting(), PROMPTS, tmp_path, 0.5, seed=3, clock=lambda: float(next(ticks)))
    record = read_metadata(tmp_path / "p2.flac")
    assert record["prompt"] == "größe ♯ 音楽"
    assert record["seed"] == seed_of_prompt(3, "p2")
    assert (record["took_in_s"], record["audio_in_s"]) == (1.0, 0.5)
    assert made.real_time_factor == 2.0
    assert made.peak_memory_in_bytes > 2**20
    assert len({r["seed"] for r in made.records.values()}) == 5
    assert made.computers == (f"cpu, {torch.get_num_threads()} threads",)
    assert seed_of_prompt(3, "p2") != seed_of_prompt(4, "p2")
    assert 0 <= seed_of_prompt(3, "p2") < 2**53


@pytest.mark.parametrize(
    ("change", "said"),
    [({"seed": 4}, "seed"), ({"length_in_s": 0.6}, "length_in_s"), ({"prompts": [Prompt("p0", "other")]}, "prompt")],
)
def test_audio_of_other_settings_is_not_taken(tmp_path, change, said):
    settings = {"prompts": PROMPTS, "length_in_s": 0.5, "seed": 3}
    synthesize(Counting(), folder=tmp_path, **settings)
    with pytest.raises(ValueError, match=f"made with another {said}"):
        synthesize(Counting(), folder=tmp_path, **{**settings, **change})


def test_samples_that_are_not_finite_are_listed(tmp_path):
    class Broken(Counting):
        def generate(self, prompts, seeds, length_in_s):
            audios, rate = super().generate(prompts, seeds, length_in_s)
            if prompts == ["fast drums"]:
                audios[0][0, 7] = np.inf
            return audios, rate

    made = synthesize(Broken(), PROMPTS, tmp_path, 0.5)
    assert "p1" not in made.records
    assert [(s.what, "not finite" in s.why) for s in made.skipped] == [("counting: p1", True)]
    assert len(list(tmp_path.glob("*.flac"))) == 4


def test_ours_does_not_depend_on_the_batch(nets, tmp_path):
    system = load_system(f"ours={nets / 'pipeline'}")
    assert isinstance(system, MusicLMSystem)
    one = synthesize(system, PROMPTS[:2], tmp_path / "one", 1.0, batch_size=1)
    synthesize(system, PROMPTS[:2], tmp_path / "two", 1.0, batch_size=2)
    ours, theirs = audio_of(tmp_path / "one"), audio_of(tmp_path / "two")
    assert ours["p0.flac"].shape == (8000,)
    for name in ours:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-3)
    assert (ours["p0.flac"] != ours["p1.flac"]).any()
    assert set(one.records["p0"]) >= {"prompt", "seed", "length_in_s", "took_in_s", "peak_memory_in_bytes"}


def test_musicgen_is_repeatable_and_leaves_the_global_state_alone(nets):
    system = load_system(f"musicgen={nets / 'musicgen'}")
    before = torch.get_rng_state()
    (first, second), rate = system.generate(["a calm piano", "fast drums"], [1, 2], 1.0)
    (again,), _ = system.generate(["a calm piano"], [1], 1.0)
    (other,), _ = system.generate(["a calm piano"], [2], 1.0)
    assert (torch.get_rng_state() == before).all()
    assert rate == 8000
    assert first.shape == (1, 8000)
    assert (first == again).all()
    assert (first != other).any()
    assert (first != second).any()
    assert system.describe()["model_type"] == "musicgen"
    assert system.describe()["generation"]["guidance_scale"] == 3.0


def test_diffusers(tmp_path):
    system = load_system(f"stable={save_stable_audio(tmp_path)}")
    before = torch.get_rng_state()
    (first,), rate = system.generate(["a"], [1], 0.25)
    (again,), _ = system.generate(["a"], [1], 0.25)
    (other,), _ = system.generate(["a"], [2], 0.25)
    assert (torch.get_rng_state() == before).all()
    assert first.shape == (2, round(0.25 * rate))
    assert np.isfinite(first).all()
    assert (first == again).all()
    assert (first != other).any()
    assert system.describe()["pipeline"] == "StableAudioPipeline"


@pytest.mark.slow  # 200 steps a clip, as AudioLDM2 is published
def test_audioldm2(tmp_path):
    system = load_system(f"audioldm2={save_audioldm2(tmp_path)}")
    # 64 whole frames of its vocoder: diffusers makes no part of one
    (first,), rate = system.generate(["a calm piano"], [1], 0.256)
    (again,), _ = system.generate(["a calm piano"], [1], 0.256)
    assert (rate, first.shape) == (4000, (1, 1024))
    assert np.isfinite(first).all()
    assert (first == again).all()
    assert system.describe()["pipeline"] == "AudioLDM2Pipeline"


def test_folder_and_names(tmp_path):
    from evaluation_networks import chord

    from open_musiclm.audio import write_audio

    write_audio(tmp_path / "a.wav", chord(220), 8000)
    system = load_system(f"held-out={tmp_path}")
    assert isinstance(system, FolderSystem)
    assert system.name == "held-out"
    with pytest.raises(ValueError, match="generates nothing"):
        system.generate(["a"], [1], 1.0)
    assert system_name("facebook/musicgen-small") == "musicgen-small"
    assert system_name("./some/run/") == "run"
    for bad in ("=x", "a=", "../x=y", "a/b=c"):
        with pytest.raises(ValueError, match="is no system"):
            system_name(bad)


def test_what_is_no_system(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json, no config\.json and no audio"):
        load_system(str(tmp_path))
    with pytest.raises(ValueError, match="there is no folder"):
        load_system(str(tmp_path / "none"))
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match="no text-to-audio model"):
        load_system(str(tmp_path))


@pytest.mark.parametrize("network", ["musicgen", "pipeline"])
def test_a_model_that_cannot_be_read(nets, tmp_path, network):
    shutil.copytree(nets / network, tmp_path / "cut")
    weights = next((tmp_path / "cut").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut' could not be loaded: .+"):
        load_system(str(tmp_path / "cut"))
    (tmp_path / "cut" / ("config.json" if network == "musicgen" else "model_index.json")).write_text("{")
    with pytest.raises(ValueError, match=r"cut' could not be loaded: .+"):
        load_system(str(tmp_path / "cut"))
