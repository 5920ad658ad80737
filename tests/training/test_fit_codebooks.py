import json

import numpy as np
import pytest
import torch
from music import write_music
from sklearn.cluster import KMeans

from open_musiclm import ClapQuantizer, SemanticQuantizer
from open_musiclm.cli import main
from open_musiclm.training.codebook_report import codebook_report
from open_musiclm.training.residual_kmeans import ResidualKMeans, kmeans


def blobs(num_blobs, number, dim=6, seed=0, spread=0.05):
    """Vectors around some centers: (number, dim), and the centers."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(num_blobs, dim))
    vectors = centers[random.integers(num_blobs, size=number)] + spread * random.normal(size=(number, dim))
    return torch.from_numpy(vectors).float(), torch.from_numpy(centers).float()


def error(vectors, codebook):
    return torch.cdist(vectors, codebook).min(dim=1).values.square().mean()


def test_kmeans_is_near_that_of_scikit_learn():
    vectors, _ = blobs(12, 2000, spread=0.3)
    found = kmeans(vectors, 12, torch.Generator().manual_seed(0), num_rounds=50)
    expected = KMeans(12, init="random", n_init=1, random_state=0).fit(vectors.numpy())
    assert error(vectors, found) < 1.3 * expected.inertia_ / len(vectors)
    with pytest.raises(ValueError, match="at least as many vectors"):
        kmeans(vectors[:11], 12, torch.Generator())


def test_each_codebook_leaves_less_than_the_one_before():
    vectors, _ = blobs(200, 6000, spread=0.4)
    fit = ResidualKMeans(4, 16, 6)
    fit.fit(vectors[:5000].split(500))
    errors = [row["reconstruction_error"] for row in codebook_report(fit.codebooks, vectors[5000:])]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.75
    assert errors[-1] < 0.5 * errors[0]


def test_codebooks_follow_a_stream_that_moves():
    """What was learnt at the start is forgotten at the rate of the decay."""
    old, _ = blobs(8, 400, seed=1)
    new, _ = blobs(8, 40_000, seed=2)
    fit = ResidualKMeans(1, 8, 6, decay=0.9)
    fit.start(old)
    before = error(new, fit.codebooks[0])
    fit.fit(new.split(400))
    assert error(new, fit.codebooks[0]) < 0.2 * before


def test_dead_entries_are_restarted():
    vectors, _ = blobs(16, 4000)
    fit = ResidualKMeans(1, 16, 6)
    fit.start(vectors[:400])
    fit.codebooks[0, :8] = 100.0  # far from everything
    fit.counts[0, :8] = 0.0
    fit.fit(vectors.split(400))
    assert fit.num_restarts >= 8
    (row,) = codebook_report(fit.codebooks, vectors)
    assert row["dead_codes"] == 0
    without = ResidualKMeans(1, 16, 6, dead_share=-1.0)
    without.start(vectors[:400])
    without.codebooks[0, :8] = 100.0
    without.sums[0, :8], without.counts[0, :8] = 100.0, 1.0
    without.fit(vectors.split(400))
    assert codebook_report(without.codebooks, vectors)[0]["dead_codes"] >= 8


def test_a_seed_gives_one_result():
    vectors, _ = blobs(30, 2000)
    fits = [ResidualKMeans(2, 8, 6, seed=seed) for seed in (0, 0, 1)]
    for fit in fits:
        fit.fit(vectors.split(300))
    assert torch.equal(fits[0].codebooks, fits[1].codebooks)
    assert not torch.equal(fits[0].codebooks, fits[2].codebooks)


def test_figures_of_the_report_in_a_known_case():
    codebook = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 90.0], [0.0, -90.0]])
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [3.0, 0.0], [5.0, 0.0]])
    (row,) = codebook_report(codebook[None], vectors)
    # mean (2, 0): variance 1 + 9 + 1 + 9 = 20; each vector is 1 from its entry: 4
    assert row["reconstruction_error"] == pytest.approx(4 / 20)
    assert row["perplexity"] == pytest.approx(2.0)
    assert row["dead_codes"] == 2


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    write_music(folder, {f"{index:02d}.wav": 16.0 for index in range(12)})
    (folder / "broken.wav").write_bytes(b"RIFF")
    return folder


def test_the_command_fits_both_and_tokens_are_made_with_them(music, pipeline_folder, tmp_path, capsys):
    output = tmp_path / "codebooks"
    assert (
        main(["fit-codebooks", str(music), "--model", str(pipeline_folder), "-o", str(output), "--device", "cpu"]) == 0
    )
    printed = capsys.readouterr().out
    assert "left out broken.wav: unreadable" in printed
    report = json.loads((output / "report.json").read_text())
    clap = ClapQuantizer.from_pretrained(output / "clap_quantizer")
    semantic = SemanticQuantizer.from_pretrained(output / "semantic_quantizer")
    assert report["clap"]["fingerprint"] == clap.fingerprint
    assert report["semantic"]["fingerprint"] == semantic.fingerprint
    assert clap.codebooks.shape == (3, 16, 16)
    assert semantic.codebook.shape == (20, 16)
    assert len(report["clap"]["codebooks"]) == 3
    assert report["semantic"]["codebooks"][0]["reconstruction_error"] < 0.8
    assert report["num_files"] == 12

    tokens = tmp_path / "tokens"
    command = ["tokenize", str(music), "--model", str(pipeline_folder), "--codebooks", str(output), "--device", "cpu"]
    assert main([*command, "-o", str(tokens)]) == 0
    from open_musiclm.data.records import TokenRecord

    record = TokenRecord.load(tokens)
    assert record.stream("clap").codebook_fingerprint == clap.fingerprint
    assert record.stream("semantic").codebook_fingerprint == semantic.fingerprint


def test_one_of_the_two_can_be_fitted_with_other_sizes(music, pipeline_folder, tmp_path):
    output = tmp_path / "codebooks"
    command = ["fit-codebooks", str(music), "--model", str(pipeline_folder), "-o", str(output), "--device", "cpu"]
    assert main([*command, "--only", "semantic", "--semantic-codebook-size", "7"]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["report.json", "semantic_quantizer"]
    assert SemanticQuantizer.from_pretrained(output / "semantic_quantizer").codebook.shape == (7, 16)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--clap-codebook-size", "1000"], "at least as many vectors"),
        (["--semantic-codebook-size", "9999"], "Give more audio"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
    ],
)
def test_too_little_audio_is_one_line(music, pipeline_folder, tmp_path, capsys, more, message):
    output = tmp_path / "codebooks"
    command = ["fit-codebooks", str(music), "--model", str(pipeline_folder), "-o", str(output), "--device", "cpu"]
    assert main([*command, *more]) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()
