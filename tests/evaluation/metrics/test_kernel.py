import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from open_musiclm.evaluation.metrics import kernel
from open_musiclm.evaluation.metrics.kernel import ClipKernels, kernel_audio_distance, median_distance

matrices = arrays(np.float64, st.tuples(st.integers(2, 10), st.just(3)), elements=st.floats(-5, 5))


def by_hand(x, y, bandwidth):
    def mean(a, b, skip):
        values = [
            np.exp(-np.sum((p - q) ** 2) / (2 * bandwidth**2))
            for i, p in enumerate(a)
            for j, q in enumerate(b)
            if not (skip and i == j)
        ]
        return np.mean(values)

    return 100 * (mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))


def test_known_value():
    value = kernel_audio_distance(np.array([[0.0], [1]]), np.array([[0.0], [2]]), bandwidth=1.0)
    assert value == pytest.approx(-43.2332358, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(matrices, matrices, st.floats(0.3, 5), st.randoms(use_true_random=False))
def test_matches_the_definition_is_symmetric_and_blind_to_order(x, y, bandwidth, random):
    value = kernel_audio_distance(x, y, bandwidth)
    assert value == pytest.approx(by_hand(x, y, bandwidth), abs=1e-8)
    assert value == pytest.approx(kernel_audio_distance(y, x, bandwidth), abs=1e-8)
    order = random.sample(range(len(x)), len(x))
    assert value == pytest.approx(kernel_audio_distance(x[order], y, bandwidth), abs=1e-8)


def test_equal_sets_give_the_value_of_the_unbiased_estimator():
    # not 0: the pairs of an item with itself are left out within a set and kept between the sets
    x = np.random.default_rng(0).standard_normal((20, 3))
    within = kernel_audio_distance(x, x, 1.0)
    assert within == pytest.approx(by_hand(x, x, 1.0), abs=1e-9)
    assert within < 0
    copies = np.repeat([[1.0, 2.0, 3.0]], 5, axis=0)
    assert kernel_audio_distance(copies, copies, 1.0) == pytest.approx(0.0, abs=1e-9)


def test_unbiased_over_splits():
    # The mean over all splits of one pool is exactly 0, whatever the sizes of the parts; the biased estimator's is not.
    from itertools import combinations

    pool = np.random.default_rng(3).standard_normal((8, 2))
    for size in (2, 3, 4):
        values = [
            kernel_audio_distance(pool[list(part)], np.delete(pool, list(part), axis=0), 1.3)
            for part in combinations(range(8), size)
        ]
        assert np.mean(values) == pytest.approx(0.0, abs=1e-9)
        assert np.std(values) > 1


def test_does_not_depend_on_the_number_of_clips_as_fad_does():
    from open_musiclm.evaluation.metrics.frechet import frechet_distance

    rng = np.random.default_rng(0)
    reference = rng.standard_normal((400, 4))
    kad, fad = {}, {}
    for size in (10, 80):
        draws = [rng.standard_normal((size, 4)) + 0.5 for _ in range(100)]
        kad[size] = np.mean([kernel_audio_distance(draw, reference, 2.0) for draw in draws])
        fad[size] = np.mean([frechet_distance(draw, reference) for draw in draws])
    assert kad[10] == pytest.approx(kad[80], rel=0.1)
    assert fad[10] > 1.3 * fad[80]


def test_blocks_do_not_change_the_value(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((23, 3)), rng.standard_normal((17, 3))
    whole = kernel_audio_distance(x, y, 1.0)
    monkeypatch.setattr(kernel, "ROWS_AT_ONCE", 5)
    assert kernel_audio_distance(x, y, 1.0) == pytest.approx(whole, abs=1e-10)


def test_sums_over_clips_give_the_same():
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal((num, 3)) for num in (1, 4, 2, 3, 5)]
    reference = rng.standard_normal((11, 3))
    sums = ClipKernels(clips, reference, 1.7)
    for part in ([0, 1, 2, 3, 4], [3, 1], [4, 0, 2]):
        expected = kernel_audio_distance(np.concatenate([clips[i] for i in part]), reference, 1.7)
        assert sums.distance(np.array(part)) == pytest.approx(expected, abs=1e-9)


def test_median_distance():
    assert median_distance(np.array([[0.0], [1], [3]])) == 2.0  # of 1, 3, 2
    from scipy.spatial.distance import pdist

    x = np.random.default_rng(0).standard_normal((50, 6))
    assert median_distance(x) == pytest.approx(np.median(pdist(x)), rel=1e-9)
    with pytest.raises(ValueError, match="pass rng"):
        median_distance(x, max_items=10)
    assert median_distance(x, max_items=40, rng=np.random.default_rng(0)) == pytest.approx(median_distance(x), rel=0.1)


def test_zero_bandwidth_says_why():
    with pytest.raises(ValueError, match="one and the same embedding"):
        kernel_audio_distance(np.zeros((3, 2)), np.zeros((3, 2)), 0.0)
