"""The memorization test on real semantic stages: one that knows its examples by heart, and one that knows nothing."""

import json

import numpy as np
import pytest
import torch
from evaluation_networks import chord
from tiny import tiny_pipeline, tiny_stage

from open_musiclm.audio import write_audio
from open_musiclm.cli import main
from open_musiclm.evaluation.memorization.measure import memorization_test
from open_musiclm.evaluation.memorization.run import greedy_continuation, read_examples

NUM_EXAMPLES, NUM_TOKENS, LENGTHS = 4, 20, (0, 5, 10)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    rows = [
        {
            "path": f"{i}.wav",
            "clap_token_ids": rng.integers(0, 16, (2, 3)),
            # each keeps to tokens of its own, as music keeps to its texture
            "semantic_token_ids": (5 * i + rng.integers(0, 5, (40 + i, 1))).astype(np.uint16),
        }
        for i in range(NUM_EXAMPLES)
    ]
    return [
        *rows,
        {
            "path": "short.wav",
            "clap_token_ids": rows[0]["clap_token_ids"],
            "semantic_token_ids": rows[0]["semantic_token_ids"][:9],
        },
    ]


@pytest.fixture(scope="module")
def by_heart(rows):
    stage = tiny_stage("semantic", forgetful_mask_prob=0.0, seed=1)
    clap = torch.tensor(np.stack([row["clap_token_ids"][0] for row in rows[:NUM_EXAMPLES]]))
    semantic = torch.tensor(
        np.stack([row["semantic_token_ids"][:31, 0].astype(np.int64) for row in rows[:NUM_EXAMPLES]])
    )
    optimizer = torch.optim.AdamW(stage.parameters(), lr=5e-3)
    stage.train()
    for _ in range(400):
        loss = stage(clap_token_ids=clap, semantic_token_ids=semantic, labels=semantic).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.06:  # below that only the end of the sequence, which greedy generation forbids, is unsure
            break
    return stage.eval()


def run(stage, rows, rng_seed=0):
    rng = np.random.default_rng(rng_seed)
    examples, num_short = read_examples(rows, stage, max(LENGTHS) + NUM_TOKENS, 10, rng)
    assert [example.name for example in examples] == [f"{i}: {i}.wav" for i in range(NUM_EXAMPLES)]
    assert num_short == 1
    centroids = np.random.default_rng(3).standard_normal((20, 6))
    return memorization_test(
        greedy_continuation(stage), examples, centroids, rng, LENGTHS, NUM_TOKENS, num_negatives=60, batch_size=2
    )


def test_a_stage_that_knows_its_examples_by_heart_is_caught(by_heart, rows):
    for result in run(by_heart, rows):
        assert result.exact_share == 1.0
        assert result.approximate_share == 1.0
        assert result.threshold > 0


def test_a_stage_that_knows_nothing_is_not(rows):
    for result in run(tiny_stage("semantic", seed=2), rows):
        assert result.exact_share == 0.0
        assert result.false_positive_rate == 0.0


def test_examples_are_drawn_from_the_whole_dataset(rows):
    drawn = {
        example.name
        for seed in range(20)
        for example in read_examples(rows[:NUM_EXAMPLES], tiny_stage("semantic"), 20, 2, np.random.default_rng(seed))[
            0
        ]
    }
    assert len(drawn) == NUM_EXAMPLES
    stage = tiny_stage("semantic")
    one = read_examples(rows, stage, 20, 2, np.random.default_rng(5))[0]
    assert [e.name for e in one] == [e.name for e in read_examples(rows, stage, 20, 2, np.random.default_rng(5))[0]]
    assert one[0].semantic_token_ids.shape == (20,)


def test_command(tmp_path, capsys):
    pytest.importorskip("open_musiclm.data")
    pipeline = tiny_pipeline()
    pipeline.semantic_model.config.window_in_s = 7.0  # 175 tokens: prompts of 0, 25 and 50 fit
    pipeline.save_pretrained(tmp_path / "pipeline")
    for i in range(3):
        (tmp_path / "music").mkdir(exist_ok=True)
        write_audio(tmp_path / "music" / f"{i}.wav", chord(110.0 * (i + 1), 8.0), 8000)
    write_audio(tmp_path / "music" / "short.wav", chord(110.0, 3.0), 8000)
    tokens, model = str(tmp_path / "tokens"), str(tmp_path / "pipeline")
    assert main(["tokenize", str(tmp_path / "music"), "--model", model, "--output", tokens, "--device", "cpu"]) == 0
    args = [
        "evaluate",
        "--memorization",
        tokens,
        "--model",
        model,
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main(args) == 0
    told = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "memorization.json").read_text())
    assert [result["prompt_length"] for result in found["results"]] == [0, 25, 50]
    assert all(result["num_examples"] == 3 for result in found["results"])
    assert "prompts of more than 50 tokens do not fit" in told
    assert "1 examples were too short" in told
    assert "prompt of  25 tokens: exact" in told
    assert "<td>25</td>" in (tmp_path / "out" / "memorization.html").read_text()
    with torch.no_grad():
        pipeline.semantic_quantizer.codebook.add_(1.0)
    pipeline.semantic_model.config.streams[-1]["codebook_fingerprint"] = pipeline.semantic_quantizer.fingerprint
    pipeline.coarse_model.config.streams[1]["codebook_fingerprint"] = pipeline.semantic_quantizer.fingerprint
    pipeline.save_pretrained(tmp_path / "other")
    assert main([*args[:4], str(tmp_path / "other"), *args[5:]]) == 1
    assert "Codebooks differ" in capsys.readouterr().err
    assert main([*args, "--model", "noise"]) == 1
    assert "one pipeline of this package; 2 were given" in capsys.readouterr().err
