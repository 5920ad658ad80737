"""`generate` and `edit … continue` with models of others: tiny ones of the classes that users load."""

import shutil

import numpy as np
import pytest
import torch
from evaluation_networks import chord, save_audioldm2, save_musicgen, save_stable_audio
from huggingface_hub import HfApi

from open_musiclm.audio import read_audio, read_metadata, write_audio
from open_musiclm.cli import main
from open_musiclm.evaluation.systems.system import is_pipeline_of_ours, load_other_system
from open_musiclm.pipelines.mixtures import Recording

RATE = 8000


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("others")
    save_musicgen(root / "musicgen")
    save_musicgen(root / "stereo", audio_channels=2)
    save_musicgen(root / "melody", melody=True)
    save_stable_audio(root / "stable")
    write_audio(root / "tune.wav", tune([62, 66, 69, 74])[None], RATE)
    write_audio(root / "other.wav", chord(330.0), RATE)
    return root


def tune(pitches, seconds_each=0.5, rate=RATE):
    """(samples,) notes one after another, with three harmonics."""
    time = np.arange(round(seconds_each * rate)) / rate
    notes = [
        sum(np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * k * time) / k for k in (1, 2, 3)) for pitch in pitches
    ]
    return (0.2 * np.concatenate(notes)).astype(np.float32)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main([*map(str, arguments), "--device", "cpu", "--seed", "1"])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def generated(run, path, *arguments):
    code, printed = run("generate", *arguments, "-o", path)
    assert code == 0, printed
    return read_audio(path, mono=False)[0]


def test_musicgen_by_the_command(run, models, tmp_path):
    model = ("--model", models / "musicgen", "-d", 0.5)
    first = generated(run, tmp_path / "a.wav", "a calm piano", *model)
    assert first.shape == (1, RATE // 2)
    assert np.array_equal(first, generated(run, tmp_path / "b.wav", "a calm piano", *model))
    for other in (["fast drums"], ["a calm piano", "--guidance-scale", 1.5], ["a calm piano", "--temperature", 0.2]):
        name = f"{len(list(tmp_path.iterdir()))}.wav"
        assert not np.array_equal(first, generated(run, tmp_path / name, *other, *model))
    told = read_metadata(tmp_path / "a.wav")
    assert (told["prompt"], told["seed"], told["model"]) == ("a calm piano", 1, str(models / "musicgen"))


def test_several_files_have_seeds_of_their_own(run, models, tmp_path):
    code, printed = run(
        "generate", "piano", "drums", "-n", 2, "-d", 0.3, "--model", models / "musicgen", "-o", tmp_path / "x.wav"
    )
    assert code == 0, printed
    told = [read_metadata(tmp_path / f"x-{number}.wav") for number in (1, 2, 3, 4)]
    assert [(each["prompt"], each["seed"]) for each in told] == [
        ("piano", 1),
        ("piano", 2),
        ("drums", 3),
        ("drums", 4),
    ]
    assert "made 1.2 s of audio" in printed


def test_from_the_hub_by_its_id(run, models, tmp_path, hub, token):
    api = HfApi(token=token)
    api.create_repo("facebook/musicgen-small")
    api.upload_folder(repo_id="facebook/musicgen-small", folder_path=models / "musicgen")
    audio = generated(run, tmp_path / "a.wav", "a calm piano", "--model", "facebook/musicgen-small", "-d", 0.5)
    same = generated(run, tmp_path / "b.wav", "a calm piano", "--model", models / "musicgen", "-d", 0.5)
    assert np.array_equal(audio, same)


def test_which_models_are_ours(models, nets, hub, token, tmp_path):
    assert is_pipeline_of_ours(str(nets / "pipeline"))
    assert is_pipeline_of_ours("mini")
    assert not is_pipeline_of_ours(str(models / "musicgen"))
    assert not is_pipeline_of_ours(str(models / "stable"))
    api = HfApi(token=token)
    for name, folder in (("me/ours", nets / "pipeline"), ("me/stable", models / "stable")):
        api.create_repo(name)
        api.upload_file(
            path_or_fileobj=folder / "model_index.json", path_in_repo="model_index.json", repo_id=name, revision="main"
        )
    assert is_pipeline_of_ours("me/ours")
    assert not is_pipeline_of_ours("me/stable")
    assert is_pipeline_of_ours("me/nothing")  # loading it says what is wrong


@pytest.mark.parametrize(
    ("model", "arguments", "names"),
    [
        ("musicgen", ["--tempo", 120], "--tempo"),
        ("musicgen", ["--negative-prompt", "drums", "--guidance-scale", 3], "--negative-prompt"),
        ("musicgen", ["--melody", "{root}/tune.wav"], "--melody"),
        ("musicgen", ["--reference-audio", "{root}/tune.wav"], "--reference-audio"),
        ("musicgen", ["--num-candidates", 4], "--num-candidates"),
        ("musicgen", ["--loop"], "--loop"),
        ("musicgen", ["--structure-from", "{root}/tune.wav"], "--structure-from"),
        ("melody", ["--lyrics", "aeiou", "--key", "A minor"], "--key and --lyrics"),
        ("stable", ["--temperature", 0.9], "--temperature"),
        ("stable", ["--melody", "{root}/tune.wav"], "--melody"),
    ],
)
def test_what_a_model_does_not_take_is_refused_by_name(run, models, tmp_path, model, arguments, names):
    arguments = [str(each).replace("{root}", str(models)) for each in arguments]
    code, printed = run(
        "generate", "a calm piano", *arguments, "--model", models / model, "-d", 0.3, "-o", tmp_path / "x.wav"
    )
    assert code == 1
    said = printed.strip().splitlines()[-1]
    assert f"cannot be asked for {names}: beside a prompt and a length it takes --" in said
    assert "Traceback" not in printed
    assert not (tmp_path / "x.wav").exists()


@pytest.mark.parametrize(
    ("prompt", "names"), [("0:00 calm | 0:05 drums", "a story"), ("0.5 * calm + 0.5 * drums", "a weighted mixture")]
)
def test_prompts_of_a_kind_that_only_our_pipelines_read(run, models, tmp_path, prompt, names):
    code, printed = run("generate", prompt, "--model", models / "musicgen", "-d", 0.3, "-o", tmp_path / "x.wav")
    assert (code, f"cannot be asked for {names}:" in printed) == (1, True)


@pytest.mark.parametrize("model", ["musicgen", "stereo", "melody"])
def test_a_recording_is_gone_on_from(run, models, tmp_path, model):
    def longer(recording, name, *more):
        code, printed = run(
            "edit", recording, "continue", "--prompt", "a calm piano", "-d", 0.5, "--model", models / model,
            "-o", tmp_path / name, *more,
        )  # fmt: skip
        assert code == 0, printed
        return read_audio(tmp_path / name)[0][0]

    given = read_audio(models / "tune.wav")[0][0]
    made = longer(models / "tune.wav", "a.wav")
    assert made.shape == (len(given) + RATE // 2,)
    assert np.array_equal(made[: len(given)], given)
    assert np.abs(made[len(given) :]).max() > 0
    assert np.abs(made[len(given)] - given[-1]) < 0.1  # goes on from the last sample
    # what follows depends on what was given, beyond the joint
    other = longer(models / "other.wav", "b.wav")
    assert not np.allclose(made[-RATE // 4 :], other[-RATE // 4 :], atol=1e-3)
    assert not np.allclose(
        made[-RATE // 4 :], longer(models / "tune.wav", "c.wav", "--guidance-scale", "1.5")[-RATE // 4 :]
    )


@pytest.mark.parametrize("model", ["musicgen", "stereo"])
def test_the_beginning_is_that_of_transformers(models, model):
    """Codes of our own making and `input_values`, its documented way in, give the same samples."""
    system = load_other_system(str(models / model))
    network = system.pipeline.model
    recording = Recording(np.stack([tune([60, 64]), tune([67, 72])]), RATE)
    (ours,), _ = system.generate(["a calm piano"], [3], 0.3, beginning=recording)
    channels = torch.from_numpy(recording.channels if model == "stereo" else recording.waveform[None])[None]
    text = system.pipeline.tokenizer(["a calm piano"], return_tensors="pt")
    torch.manual_seed(3)
    theirs = network.generate(
        input_ids=text.input_ids, attention_mask=text.attention_mask, input_values=channels, do_sample=True,
        max_new_tokens=15 + network.config.decoder.num_codebooks - 1,
    )[0]  # fmt: skip
    np.testing.assert_allclose(ours, theirs[:, : ours.shape[1]].numpy(), atol=1e-5)


def test_too_long_for_its_positions(run, models, tmp_path):
    code, printed = run(
        "edit", models / "tune.wav", "continue", "--prompt", "drums", "-d", 30, "--model", models / "musicgen",
        "-o", tmp_path / "x.wav",
    )  # fmt: skip
    assert (code, "512 positions, which are 10.2 s of audio" in printed) == (1, True)


def test_other_ways_of_editing_are_refused(run, models, tmp_path):
    edit = ("edit", models / "tune.wav")
    for arguments, says in (
        (["loop", "--model", models / "musicgen"], "cannot loop a recording"),
        (["continue", "--prompt", "a", "--model", models / "stable"], "cannot be asked for a recording to go on from"),
        (["continue", "--model", models / "musicgen"], "needs a --prompt"),
    ):
        code, printed = run(*edit, *arguments, "-d", 0.3, "-o", tmp_path / "x.wav")
        assert (code, says in printed) == (1, True), printed


def test_a_melody_for_a_checkpoint_of_melodies(run, models, tmp_path):
    system = load_other_system(str(models / "melody"))
    chroma = system._chroma_of(Recording.read(models / "tune.wav"), 2.0)
    frames = chroma[0].argmax(dim=-1).numpy()
    assert chroma.sum() == len(frames) == 2 * 16000 // 2048 + 1
    times = np.arange(len(frames)) * 2048 / 16000
    asked = np.array([2, 6, 9, 2])[np.minimum(times / 0.5, 3).astype(int)]
    inside = np.abs((times % 0.5) - 0.25) < 0.12  # away from where notes change
    assert (frames[inside] == asked[inside]).all()
    model = ("--model", models / "melody", "-d", 0.5)
    plain = generated(run, tmp_path / "a.wav", "a calm piano", *model)
    followed = generated(run, tmp_path / "b.wav", "a calm piano", *model, "--melody", models / "tune.wav")
    assert followed.shape == plain.shape
    assert not np.array_equal(plain, followed)


def test_a_melody_of_notes_is_their_pitch_classes(models):
    system = load_other_system(str(models / "melody"))
    chroma = system._chroma_of([(0.0, 0.5, 60), (0.5, 1.0, 69)], 1.0)[0].argmax(dim=-1).tolist()
    assert (chroma[0], chroma[-1], len(chroma)) == (0, 9, 8)


def test_a_pipeline_of_diffusers_by_the_command(run, models, tmp_path):
    model = ("--model", models / "stable", "-d", 0.25)
    first = generated(run, tmp_path / "a.wav", "a", *model)
    assert first.shape == (2, 100)
    for index, more in enumerate(
        (["--guidance-scale", 2], ["--negative-prompt", "a a a"], ["--reference-audio", models / "tune.wav"])
    ):
        assert not np.array_equal(first, generated(run, tmp_path / f"{index}.wav", "a", *model, *more)), more


@pytest.mark.slow  # 200 steps a clip, as AudioLDM2 is published
def test_audioldm2_by_the_command(run, tmp_path):
    save_audioldm2(tmp_path / "model")
    model = ("--model", tmp_path / "model", "-d", 0.256)
    first = generated(run, tmp_path / "a.wav", "a calm piano", *model)
    other = generated(run, tmp_path / "b.wav", "a calm piano", *model, "--negative-prompt", "drums")
    assert first.shape == other.shape == (1, 1024)
    assert not np.array_equal(first, other)


def test_a_model_that_cannot_be_read_is_one_line(run, models, tmp_path):
    shutil.copytree(models / "musicgen", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    code, printed = run("generate", "a", "--model", tmp_path / "cut", "-o", tmp_path / "x.wav")
    assert code == 1
    assert "cut' could not be loaded: " in printed
    assert "Traceback" not in printed
