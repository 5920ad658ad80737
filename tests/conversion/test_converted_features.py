"""A converted checkpoint, which has no extra streams: what needs no training works on it, and the rest is refused by name.

The stages and codebooks are the golden ones that the original code wrote (tests/goldens/conv_continuous), converted by the
command; CLAP, codec and encoder are tiny networks of the sizes that those ask for (the codec of spectra: those of transformers
have no 48 entries).
"""

import numpy as np
import pytest
import torch
from goldens import CLASSES, GOLDENS, STAGES
from tiny import WORDS, tiny_clap, tiny_semantic_encoder

from open_musiclm import ClapQuantizer, MusicLMPipeline, SemanticQuantizer, SpectralCodecConfig, SpectralCodecModel
from open_musiclm.audio import read_audio, write_audio
from open_musiclm.cli import main
from open_musiclm.models.spectral_codec import FLOOR
from open_musiclm.pipelines.editing import following_likelihoods
from open_musiclm.pipelines.mixtures import Mixture, Recording
from open_musiclm.pipelines.seams import seam_measure
from open_musiclm.tokenizers.attributes import attribute_names
from open_musiclm.tokenizers.clap import clap_audio_embeddings, clap_text_embeddings

RATE = 9600
#: what a stream of each name would be asked for
REQUESTS = {
    "melody": [(0.0, 1.0, 60)],
    "tempo": 120,
    "key": "A minor",
    "genre": "jazz",
    "artist": "someone",
    "timing": 30.0,
    "lyrics": "aeiou",
}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def tune(seconds, seed=0):
    """(1, samples) notes of half a second."""
    rng = np.random.default_rng(seed)
    time = np.arange(RATE // 2) / RATE
    wave = np.concatenate([np.sin(2 * np.pi * f * time) for f in rng.uniform(200, 800, round(2 * seconds))])
    return (0.2 * wave + rng.normal(0, 0.01, len(wave))).astype(np.float32)[None]


@torch.no_grad()
def telling_apart(clap, processor) -> None:
    """Untrained towers give all inputs nearly one embedding: take away what is common to them."""
    sounds = np.concatenate([tune(10.0, seed) for seed in range(4)])
    for projection, embed in (
        (clap.text_projection, lambda: clap_text_embeddings(clap, processor, WORDS)),
        (clap.audio_projection, lambda: clap_audio_embeddings(clap, processor, sounds[:, : 10 * 8000])),
    ):
        projected = []
        hook = projection.register_forward_hook(lambda module, inputs, output, kept=projected: kept.append(output))
        embed()
        hook.remove()
        projection.linear2.bias -= torch.cat(projected).mean(dim=0)


@torch.no_grad()
def fitting_codec() -> SpectralCodecModel:
    """15 frames a second, 8 codebooks of 48, which lie among what its untrained encoder gives."""
    torch.manual_seed(0)
    codec = SpectralCodecModel(
        SpectralCodecConfig(
            sampling_rate=RATE,
            fft_size=1024,
            fft_hop=160,
            spectra_per_frame=4,
            hidden_size=16,
            codebook_size=48,
            codebook_dim=8,
            num_codebooks=8,
            num_phase_iterations=2,
        )
    ).eval()
    latents = codec.encoder(torch.log(codec.magnitudes(torch.from_numpy(tune(40.0, 9))) + FLOOR))[0].T
    for codebook in codec.quantizer.codebooks:
        entries = latents[torch.randperm(len(latents), generator=gen())[: len(codebook.embed)]]
        codebook.embed.copy_(entries)
        latents = latents - entries[codebook.encode(latents)]
    return codec


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_convert):
    """A pipeline of the golden checkpoint, saved, and a recording."""
    root = tmp_path_factory.mktemp("golden")
    run_convert("--checkpoint-dir", GOLDENS / "conv_continuous", "--output-dir", root / "parts")
    clap, processor = tiny_clap(projection_dim=32)
    telling_apart(clap, processor)
    stages = {
        f"{stage}_model": CLASSES[stage][1].from_pretrained(root / "parts" / f"{stage}_model") for stage in STAGES
    }
    MusicLMPipeline(
        clap=clap,
        clap_processor=processor,
        clap_quantizer=ClapQuantizer.from_pretrained(root / "parts" / "clap_quantizer"),
        codec=fitting_codec(),
        semantic_encoder=tiny_semantic_encoder(
            hidden_size=96, num_hidden_layers=7, conv_kernel=(10, 10, 20), conv_stride=(8, 10, 20)
        ),
        semantic_quantizer=SemanticQuantizer.from_pretrained(root / "parts" / "semantic_quantizer"),
        **stages,
    ).save_pretrained(root / "model")
    write_audio(root / "song.wav", tune(5.0), RATE)
    return root


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = MusicLMPipeline.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def run(folder, tmp_path, capsys):
    def run(*arguments):
        code = main([*map(str, arguments), "--model", str(folder / "model"), "--device", "cpu", "--seed", "1"])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_it_has_no_streams_but_the_originals(pipe):
    assert list(pipe.chain.streams) == ["clap", "semantic", "coarse", "fine"]
    assert not any(stage.config.condition_dropout for stage in pipe.chain.stages.values())


# ------------------------------------------------------------ what needs no training


def test_long_pieces(pipe):
    made = pipe("calm piano", audio_length_in_s=13.3, generator=gen(), return_tokens=True)
    assert made.audios.shape == (1, 1, round(13.3 * RATE))
    again = pipe("calm piano", audio_length_in_s=13.3, generator=[gen()]).audios
    assert np.isfinite(again).all()
    # the beginning of a longer piece is that of a shorter one
    shorter = pipe("calm piano", audio_length_in_s=4.0, generator=gen(), return_tokens=True)
    same = shorter.tokens["semantic"].shape[1]
    assert torch.equal(made.tokens["semantic"][:, :same], shorter.tokens["semantic"])


def test_story_and_its_transition(pipe):
    parts = [(0, "calm piano"), (4, "fast drums")]
    story = pipe(parts, audio_length_in_s=8.0, generator=gen(), return_tokens=True)
    plain = pipe("calm piano", audio_length_in_s=8.0, generator=gen(), return_tokens=True)
    num_same = story.tokens["semantic"].shape[1] // 2 - 1
    assert torch.equal(story.tokens["semantic"][:, :num_same], plain.tokens["semantic"][:, :num_same])
    assert not torch.equal(story.tokens["semantic"], plain.tokens["semantic"])
    moved = pipe(parts, audio_length_in_s=8.0, generator=gen(), transition_in_s=4.0).audios
    assert not np.array_equal(moved, story.audios)


def test_recordings_and_mixtures_as_conditions(pipe):
    recording = Recording(tune(6.0, 3), RATE)
    asked = [
        pipe.encode_prompt(each) for each in ("calm piano", recording, Mixture(("calm piano", recording), (0.5, 0.5)))
    ]
    assert not torch.equal(asked[0], asked[1])
    like = pipe(reference_audio=recording, audio_length_in_s=2.0, generator=gen()).audios
    given = pipe(clap_token_ids=asked[1], audio_length_in_s=2.0, generator=gen()).audios
    assert np.array_equal(like, given)
    assert not np.array_equal(like, pipe("calm piano", audio_length_in_s=2.0, generator=gen()).audios)
    assert not torch.equal(pipe.encode_prompt(Mixture(("calm piano", "drums"), (1.0, -0.9))), asked[0])


def test_continuation(pipe):
    audio = tune(5.0)
    continued = pipe.continue_audio((audio, RATE), 3.0, generator=gen())
    assert np.array_equal(continued.audios[0][:, : 5 * RATE], audio)
    assert continued.audios.shape == (1, 1, 8 * RATE)
    assert seam_measure(continued.audios[0, 0], 5 * RATE, RATE)["click"] < 2
    other = pipe.continue_audio((tune(5.0, 4), RATE), 3.0, prompt="calm piano", generator=gen())
    same = pipe.continue_audio((audio, RATE), 3.0, prompt="calm piano", generator=gen())
    assert not np.allclose(other.audios[..., 6 * RATE :], same.audios[..., 6 * RATE :])


@pytest.mark.parametrize("way", ["replace", "extend", "vary", "repeat"])
def test_editing_by_candidates(pipe, way):
    audio = tune(6.0)
    edited = pipe.edit_audio(
        (audio, RATE), 2.0, 3.2, way, 1.2, num_candidates=2, generator=[gen(seed) for seed in range(2)]
    )
    assert np.array_equal(edited.audios[0][:, : edited.start], audio[:, : edited.start])
    assert np.array_equal(edited.audios[0][:, edited.stop :], audio[:, round(3.2 * RATE) :])
    assert (edited.log_likelihoods is None) == (way == "repeat")


def test_what_follows_chooses_among_the_candidates(pipe):
    """What a stage itself made is likelier to follow than what it did not make."""
    settings = {"do_sample": False}
    made = pipe("song", audio_length_in_s=4.0, generator=gen(), return_tokens=True, settings=settings).tokens
    own = {name: made[name][:, round(3 * float(pipe.chain.streams[name].frame_rate)) :] for name in pipe.chain.makers}
    strange = {name: (tokens + 7) % pipe.chain.streams[name].codebook_size for name, tokens in own.items()}
    scores = [following_likelihoods(pipe, made, following, 3)[0] for following in (own, strange)]
    assert scores[0] > scores[1]


def test_loops(pipe):
    loop = pipe("song", audio_length_in_s=6.0, loop=True, generator=gen()).audios[0, 0]
    assert len(loop) == 6 * RATE
    assert seam_measure(np.concatenate([loop, loop]), len(loop), RATE)["click"] < 2
    audio = tune(5.0)
    recorded = pipe.loop_audio((audio, RATE), 0.5, generator=gen()).audios[0]
    assert np.array_equal(recorded[:, : round(4.5 * RATE)], audio[:, : round(4.5 * RATE)])


def test_reconstruction_and_another_sound(pipe):
    audio = (tune(4.0), RATE)
    for keep in (None, "semantic", "coarse", ["semantic", "coarse"]):
        remade = pipe.remake_audio(audio, keep, prompt="loud drums", generator=gen())
        assert abs(remade.shape[-1] - 4 * RATE) <= RATE // 5
    coarse = pipe.encode_audio(audio, ["coarse"])["coarse"]
    made = pipe("x", audio_length_in_s=3.0, coarse_token_ids=coarse, generator=gen(), return_tokens=True)
    assert torch.equal(made.tokens["coarse"], coarse)
    assert "semantic" not in made.tokens  # the stage before was not run


def test_drafts_are_made_longer(pipe):
    draft = pipe("a song", audio_length_in_s=4.0, generator=gen(), return_tokens=True)
    beginnings = draft.tokens_made(pipe)
    longer = pipe("a song", audio_length_in_s=6.0, generator=gen(5), beginnings=beginnings, return_tokens=True)
    for name in pipe.chain.makers:
        known = draft.tokens[name]
        assert torch.equal(longer.tokens[name][:, : known.shape[1]], known), name


def test_the_best_of_several_and_streaming(pipe):
    made = pipe("calm piano", audio_length_in_s=1.0, num_candidates=3, generator=[gen(seed) for seed in range(3)])
    assert made.kept.shape == (1,)
    pieces = list(pipe.stream("calm piano", audio_length_in_s=3.0, generator=gen()))
    whole = pipe("calm piano", audio_length_in_s=3.0, generator=gen()).audios
    np.testing.assert_allclose(np.concatenate(pieces, axis=-1), whole, atol=1e-4)


@pytest.mark.parametrize(
    ("request_", "seconds"),
    [
        (["generate", "0:00 calm piano | 0:02 fast drums", "--transition", 1, "-d", 3], 3.0),
        (["generate", "0.7 * calm piano - 0.3 * {song}", "-d", 2], 2.0),
        (["generate", "--reference-audio", "{song}", "-d", 2], 2.0),
        (["generate", "loud drums", "--semantic-from", "{song}", "-d", 2], 2.0),
        (["generate", "loud drums", "--structure-from", "{song}", "--keep", "coarse", "-d", 2], 2.0),
        (["generate", "drums", "--loop", "-d", 4], 4.0),
        (["edit", "{song}", "continue", "-d", 1], 6.0),
        (["edit", "{song}", "replace", "--start", 1, "--stop", 2], 5.0),
        (["edit", "{song}", "remake", "--keep", "coarse"], 5.0),
    ],
)
def test_by_the_commands(run, folder, tmp_path, request_, seconds):
    request_ = [str(part).replace("{song}", str(folder / "song.wav")) for part in request_]
    code, printed = run(*request_, "-o", tmp_path / "out.wav")
    assert code == 0, printed
    audio, rate = read_audio(tmp_path / "out.wav")
    assert audio.shape[-1] / rate == pytest.approx(seconds, abs=0.21)
    assert np.abs(audio).max() > 0


# --------------------------------------------------------- what needs a stream it lacks


def test_every_attribute_has_a_request_here():
    assert set(attribute_names()) == set(REQUESTS)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_missing_stream_is_named(pipe, run, tmp_path, name):
    with pytest.raises(
        ValueError, match=f"No stage of this pipeline has a stream of {name}, .* clap, semantic, coarse, fine"
    ):
        pipe("calm piano", audio_length_in_s=1.0, **{name: REQUESTS[name]})
    if name != "melody":  # there a file is asked for
        code, printed = run("generate", "calm", f"--{name}", REQUESTS[name], "-d", 1, "-o", tmp_path / "x.wav")
        assert (code, f"has a stream of {name}," in printed) == (1, True)
        assert "Traceback" not in printed


def test_guidance_is_refused_but_can_be_forced(pipe):
    with pytest.raises(
        ValueError, match="trained with condition dropout; none of semantic_model, coarse_model, fine_model"
    ):
        pipe("calm piano", audio_length_in_s=1.0, guidance_scale=3.0)
    with pytest.raises(ValueError, match="guidance_scale"):
        pipe("calm piano", audio_length_in_s=1.0, negative_prompt="drums")
    with pytest.raises(ValueError, match="Pass a `prompt`"):
        pipe(audio_length_in_s=1.0)  # unconditional: its conditions were never hidden
    plain = pipe("calm piano", audio_length_in_s=1.0, generator=gen()).audios
    forced = pipe(
        "calm piano", audio_length_in_s=1.0, generator=gen(), guidance_scale=3.0, settings={"force_guidance": True}
    ).audios
    assert not np.array_equal(plain, forced)
