"""Best of N by CLAP."""

import numpy as np
import pytest
import torch

from open_musiclm.audio import read_metadata, resample
from open_musiclm.cli import main
from open_musiclm.pipelines.reranking import clap_embeddings_of_clip, rank_by_clap
from open_musiclm.tokenizers.clap import clap_audio_embeddings, clap_text_embeddings

PROMPTS = ["a calm piano", "fast drums"]


def tones(num, length_in_s=1.0, rate=8000):
    time = np.arange(round(length_in_s * rate)) / rate
    return np.stack([np.sin(2 * np.pi * 150 * (i + 1) * time)[None] * 0.3 for i in range(num)]).astype(np.float32)


def test_order_is_that_of_the_cosines(pipe):
    audios = tones(6)
    ranking = rank_by_clap(pipe.clap, pipe.clap_processor, PROMPTS, audios, 8000)
    text = clap_text_embeddings(pipe.clap, pipe.clap_processor, PROMPTS)
    audio = clap_audio_embeddings(pipe.clap, pipe.clap_processor, audios[:, 0])
    cosines = torch.nn.functional.cosine_similarity(text[:, None], audio.reshape(2, 3, -1), dim=-1)
    assert torch.allclose(ranking.similarities, cosines, atol=1e-5)
    for row, order in zip(cosines, ranking.order, strict=True):
        assert order.tolist() == sorted(range(3), key=lambda i: -row[i])


def test_order_of_the_candidates_does_not_matter(pipe):
    audios = tones(4)
    one = rank_by_clap(pipe.clap, pipe.clap_processor, PROMPTS[:1], audios, 8000)
    other = rank_by_clap(pipe.clap, pipe.clap_processor, PROMPTS[:1], audios[::-1], 8000)
    assert torch.allclose(one.similarities, other.similarities.flip(1), atol=1e-5)
    assert one.order[0].tolist() == [3 - i for i in other.order[0].tolist()]


def test_a_clip_that_is_the_prompt_wins(pipe):
    audios = tones(4)
    wanted = clap_embeddings_of_clip(pipe.clap, pipe.clap_processor, audios[2], 8000)
    ranking = rank_by_clap(pipe.clap, pipe.clap_processor, PROMPTS[:1], audios, 8000, text_embeddings=wanted)
    assert ranking.order[0, 0] == 2
    assert ranking.similarities[0, 2] == pytest.approx(1.0, abs=1e-5)


def test_stereo_rates_and_long_clips(pipe):
    audio = tones(1, length_in_s=12.0)[0]
    windows = clap_embeddings_of_clip(pipe.clap, pipe.clap_processor, audio, 8000)
    assert windows.shape == (2, 16)
    assert torch.allclose(windows.norm(dim=1), torch.ones(2), atol=1e-5)
    stereo = np.concatenate([audio, audio])
    assert torch.allclose(windows, clap_embeddings_of_clip(pipe.clap, pipe.clap_processor, stereo, 8000), atol=1e-6)
    doubled = clap_embeddings_of_clip(pipe.clap, pipe.clap_processor, resample(audio, 8000, 16000), 16000)
    assert torch.allclose(windows, doubled, atol=1e-2)


def test_bad_numbers(pipe):
    with pytest.raises(ValueError, match="3 waveforms are not the same number of candidates for each of 2 prompts"):
        rank_by_clap(pipe.clap, pipe.clap_processor, PROMPTS, tones(3), 8000)


def test_pipeline_keeps_the_nearest(pipe):
    def generators():
        return [torch.Generator().manual_seed(seed) for seed in range(6)]

    everything = pipe(PROMPTS, 0.5, num_waveforms_per_prompt=3, generator=generators())
    assert everything.similarities is None
    ranking = rank_by_clap(pipe.clap, pipe.clap_processor, PROMPTS, everything.audios, pipe.sampling_rate)
    best = pipe(PROMPTS, 0.5, num_waveforms_per_prompt=2, num_candidates=3, generator=generators())
    assert best.audios.shape[0] == 4
    rows = [3 * prompt + int(place) for prompt in range(2) for place in ranking.order[prompt, :2]]
    assert np.array_equal(best.audios, everything.audios[rows])
    assert best.kept.tolist() == ranking.order[:, :2].flatten().tolist()
    assert torch.allclose(best.similarities, ranking.similarities.flatten()[rows])
    with pytest.raises(ValueError, match="1 candidates are fewer than 2"):
        pipe(PROMPTS, 0.5, num_waveforms_per_prompt=2, num_candidates=1)
    with pytest.raises(ValueError, match="needs the `prompt`"):
        pipe(clap_token_ids=pipe.encode_prompt(PROMPTS), num_candidates=2)


def test_command_stores_the_similarity_and_the_seed_that_made_it(pipeline_folder, tmp_path, capsys):
    common = ["--model", str(pipeline_folder), "--duration", "0.5", "--device", "cpu"]
    best = tmp_path / "best.wav"
    assert (
        main(["generate", "fast drums", *common, "--seed", "5", "--num-candidates", "3", "--output", str(best)]) == 0
    )
    stored = read_metadata(best)
    assert f"CLAP similarity {stored['clap_similarity']:.3f}" in capsys.readouterr().out
    assert stored["seed"] in (5, 6, 7)
    again = tmp_path / "again.wav"
    assert main(["generate", "fast drums", *common, "--seed", str(stored["seed"]), "--output", str(again)]) == 0
    import soundfile

    assert np.abs(soundfile.read(best)[0] - soundfile.read(again)[0]).max() < 1e-3
    assert (
        main(["generate", "x", *common, "-n", "3", "--num-candidates", "2", "--output", str(tmp_path / "x.wav")]) == 1
    )
    assert "less than the 3 files to keep" in capsys.readouterr().err
