import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_musiclm.evaluation.metrics.similarity import (
    cosine_similarity,
    derangements,
    mean_pairwise_distance,
    text_audio_similarity,
    vendi_score,
)


def test_cosine_and_windows():
    assert cosine_similarity([[1.0, 0]], [[3.0, 4]]) == pytest.approx([0.6])
    text = np.array([[1.0, 0], [0, 2]])
    audio = [np.array([[1.0, 0], [0, 1]]), np.array([[0.0, -5]])]
    assert text_audio_similarity(text, audio) == pytest.approx([0.5, -1.0])


def test_matches_torch():
    import torch

    x, y = np.random.default_rng(0).standard_normal((2, 7, 5))
    expected = torch.nn.functional.cosine_similarity(torch.tensor(x), torch.tensor(y), dim=1, eps=1e-8)
    assert cosine_similarity(x, y) == pytest.approx(expected.numpy(), abs=1e-12)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.integers(0, 1000))
def test_no_clip_keeps_its_prompt(kinds, seed):
    labels = [f"prompt {kind}" for kind in kinds]
    largest = max(labels.count(label) for label in labels)
    if largest * 2 > len(labels):
        with pytest.raises(ValueError, match=f"belongs to {largest} of {len(labels)} clips"):
            derangements(labels, 3, np.random.default_rng(seed))
        return
    for order in derangements(labels, 3, np.random.default_rng(seed)):
        assert sorted(order) == list(range(len(labels)))
        assert all(labels[i] != labels[j] for i, j in enumerate(order))


def test_derangements_are_not_one_and_the_same():
    orders = derangements([str(i) for i in range(20)], 5, np.random.default_rng(0))
    assert len({tuple(order) for order in orders}) == 5


def test_diversity():
    alike = np.repeat([[1.0, 2, 3]], 4, axis=0)
    apart = np.eye(4)
    assert mean_pairwise_distance(alike) == pytest.approx(0)
    assert mean_pairwise_distance(apart) == pytest.approx(1)
    assert vendi_score(alike) == pytest.approx(1)
    assert vendi_score(apart) == pytest.approx(4)
    x = np.random.default_rng(0).standard_normal((6, 3))
    by_hand = np.mean([1 - cosine_similarity(x[[i]], x[[j]])[0] for i in range(6) for j in range(6) if i != j])
    assert mean_pairwise_distance(x) == pytest.approx(by_hand)
    assert vendi_score(np.concatenate([x, x])) == pytest.approx(vendi_score(x))  # copies add no clip


def test_no_direction():
    with pytest.raises(ValueError, match="all zeros"):
        cosine_similarity([[0.0, 0]], [[1.0, 0]])
