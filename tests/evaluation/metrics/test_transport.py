import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_musiclm.evaluation.metrics.transport import histogram_transport_cost, sinkhorn_cost

RNG = np.random.default_rng(0)
CENTROIDS = RNG.standard_normal((40, 6))


@pytest.mark.parametrize("regularization", [0.05, 0.2, 1.0])
def test_matches_pot(regularization):
    rng = np.random.default_rng(1)
    x, y = rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(17))
    costs = rng.random((12, 17)) * 3
    expected = ot.sinkhorn2(x, y, costs, regularization, method="sinkhorn_log", numItermax=200_000, stopThr=1e-13)
    assert sinkhorn_cost(x, y, costs, regularization, 100_000, 1e-12) == pytest.approx(float(expected), abs=1e-6)


def test_nears_the_exact_transport():
    rng = np.random.default_rng(2)
    x, y = rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(9))
    costs = rng.random((9, 9))
    exact = ot.emd2(x, y, costs)
    errors = [sinkhorn_cost(x, y, costs, r, 20_000) - exact for r in (0.5, 0.05, 0.005)]
    assert errors[0] > errors[1] > errors[2] >= -1e-9
    assert errors[2] < 1e-3


def test_small_regularization_does_not_under_or_overflow():
    costs = np.array([[0.0, 10], [10, 0]])
    assert sinkhorn_cost([0.3, 0.7], [0.5, 0.5], costs, 0.005) == pytest.approx(2.0, abs=1e-6)  # exp(-2000) is 0


def test_histograms_of_tokens_match_pot():
    rng = np.random.default_rng(6)
    for _ in range(5):
        a, b = rng.integers(0, 40, 125), rng.choice(rng.choice(40, 9, replace=False), 125)
        weights = [np.bincount(tokens, minlength=40) / 125 for tokens in (a, b)]
        present = [np.flatnonzero(weight) for weight in weights]
        costs = ot.dist(CENTROIDS[present[0]], CENTROIDS[present[1]], metric="euclidean")
        ours = [weight[tokens] for weight, tokens in zip(weights, present, strict=True)]
        theirs = ot.sinkhorn2(
            *ours, costs, 0.05 * costs.mean(), method="sinkhorn_log", numItermax=200_000, stopThr=1e-13
        )
        assert histogram_transport_cost(a, b, CENTROIDS, 0.05, 1e-12) == pytest.approx(float(theirs), abs=1e-6)
        assert histogram_transport_cost(a, b, CENTROIDS) >= ot.emd2(*ours, costs) - 1e-9


tokens = st.lists(st.integers(0, 39), min_size=1, max_size=30)


@settings(deadline=None, max_examples=30)
@given(tokens, tokens, st.randoms(use_true_random=False))
def test_zero_for_equal_symmetric_and_blind_to_order(a, b, random):
    cost = histogram_transport_cost(a, b, CENTROIDS, tolerance=1e-8)
    assert histogram_transport_cost(a, random.sample(a, len(a)), CENTROIDS) == 0.0
    assert cost == pytest.approx(histogram_transport_cost(b, a, CENTROIDS, tolerance=1e-8), abs=0.02)
    assert cost >= 0


def test_never_below_the_exact_transport_however_early_it_ends():
    rng = np.random.default_rng(4)
    for _ in range(20):
        x, y, costs = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(8)), rng.random((6, 8))
        for iterations in (1, 5, 500):
            assert sinkhorn_cost(x, y, costs, 0.01, iterations) >= ot.emd2(x, y, costs) - 1e-9


def test_one_token_each_costs_their_distance():
    expected = np.linalg.norm(CENTROIDS[3] - CENTROIDS[8])
    assert histogram_transport_cost([3] * 5, [8] * 9, CENTROIDS) == pytest.approx(expected, abs=1e-9)


def test_bad_input():
    with pytest.raises(ValueError, match="leave out empty bins"):
        sinkhorn_cost([0.0, 1.0], [1.0], [[1.0], [1.0]], 0.1)
    with pytest.raises(ValueError, match="0 … 39"):
        histogram_transport_cost([-1, 3], [3], CENTROIDS)
