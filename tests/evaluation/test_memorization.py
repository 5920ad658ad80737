import numpy as np
import pytest

from open_musiclm.evaluation.memorization.measure import TokenExample, calibrate_threshold, memorization_test

NUM_TOKENS, LENGTHS = 20, (0, 5, 10)


def make_examples(num, seed=0, codebook_size=64):
    rng = np.random.default_rng(seed)
    # each example keeps to a few tokens of its own, as music that holds a texture does
    return [
        TokenExample(f"clip {i}", rng.integers(0, 16, 4), rng.choice(rng.choice(codebook_size, 6), 30))
        for i in range(num)
    ]


CENTROIDS = np.random.default_rng(5).standard_normal((64, 8))


def run(continue_greedily, examples, **arguments):
    return memorization_test(
        continue_greedily,
        examples,
        CENTROIDS,
        np.random.default_rng(0),
        prompt_lengths=LENGTHS,
        num_tokens=NUM_TOKENS,
        **{"num_negatives": 300, "batch_size": 3, **arguments},
    )


def parrot(examples, from_length=0, changed=0):
    """A model that knows its examples by heart once it has seen `from_length` tokens, `changed` tokens swapped."""
    known = {tuple(e.clap_token_ids): e.semantic_token_ids for e in examples}

    def continue_greedily(clap, prompt, num_tokens):
        start = prompt.shape[1]
        out = []
        for row in clap:
            target = known[tuple(row)][start : start + num_tokens].copy()
            if changed:
                target = np.concatenate([target[changed:], target[:changed]])
            out.append(target if start >= from_length else np.full(num_tokens, 63))
        return np.stack(out)

    return continue_greedily


def test_a_parrot_is_caught_from_the_prompt_length_on_at_which_it_knows():
    examples = make_examples(10)
    results = run(parrot(examples, from_length=5), examples)
    assert [r.prompt_length for r in results] == list(LENGTHS)
    assert [r.exact_share for r in results] == [0.0, 1.0, 1.0]
    assert results[0].approximate_share < 0.3
    assert results[1].costs == (0.0,) * 10
    assert results[1].exact_examples == tuple(e.name for e in examples)


def test_same_tokens_in_another_order_are_an_approximate_match_only():
    examples = make_examples(10)
    results = run(parrot(examples, changed=7), examples)
    assert all(r.exact_share < 0.2 for r in results)
    assert all(r.approximate_share == 1.0 for r in results)


def test_a_model_that_knows_nothing_stays_near_the_false_positive_rate():
    examples = make_examples(30)
    rng = np.random.default_rng(9)
    results = run(lambda clap, prompt, num: rng.integers(0, 64, (len(clap), num)), examples, false_positive_rate=0.05)
    assert all(r.exact_share == 0 for r in results)
    assert np.mean([r.approximate_share for r in results]) < 0.2
    assert all(r.false_positive_rate <= 0.05 for r in results)
    assert not results[0].warnings


def test_threshold():
    costs = np.arange(1, 1001) / 10
    threshold, warnings = calibrate_threshold(costs, 0.01)
    assert np.sum(costs < threshold) == 10
    assert not warnings
    threshold, warnings = calibrate_threshold(costs[::-1], 1e-4)
    assert threshold == 0.1  # nothing lies below
    assert "at least 10000" in warnings[0]


def test_bad_input():
    examples = make_examples(3)
    short = [*examples, TokenExample("too short", examples[0].clap_token_ids, np.arange(12))]
    with pytest.raises(ValueError, match=r"1 of 4 examples have fewer than 30 semantic tokens .*too short"):
        run(parrot(examples), short)
    with pytest.raises(ValueError, match="at least 2"):
        run(parrot(examples), examples[:1])
