import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from open_musiclm.evaluation.metrics.frechet import frechet_distance, frechet_distance_of_gaussians, frechet_infinity

matrices = arrays(
    np.float64,
    st.tuples(st.integers(2, 12), st.just(4)),
    elements=st.floats(-10, 10, allow_subnormal=False),
)


def test_known_value_of_two_gaussians():
    value = frechet_distance_of_gaussians(
        np.zeros(3), np.diag([1.0, 4, 9]), np.array([1.0, 2, 0]), np.diag([4.0, 1, 9])
    )
    assert value == pytest.approx(7.0, abs=1e-9)


def exact_set(mean, covariance):
    """Points whose sample mean and covariance are these to rounding."""
    dimension = len(mean)
    root = np.linalg.cholesky(covariance)
    corners = np.concatenate([np.eye(dimension), -np.eye(dimension)])
    return mean + corners * np.sqrt((len(corners) - 1) / 2) @ root.T


def test_known_value_from_sets_of_points():
    x = exact_set(np.zeros(3), np.diag([1.0, 4, 9]))
    y = exact_set(np.array([1.0, 2, 0]), np.diag([4.0, 1, 9]))
    assert frechet_distance(x, y) == pytest.approx(7.0, abs=1e-9)


@pytest.mark.parametrize(("num", "dimension"), [(200, 16), (40, 16), (17, 16)])
def test_matches_the_matrix_root_of_scipy(num, dimension):
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(num)
    x = rng.standard_normal((num, dimension)) @ rng.standard_normal((dimension, dimension))
    y = rng.standard_normal((num + 9, dimension)) @ rng.standard_normal((dimension, dimension)) + 1
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(cov_x @ cov_y).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cov_x + cov_y - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance_of_gaussians(x.mean(0), cov_x, y.mean(0), cov_y) == pytest.approx(expected, rel=1e-7)


def test_fewer_items_than_dimensions_matches_the_eigenvalues_of_the_product():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 64)), rng.standard_normal((9, 64))
    product = np.cov(x, rowvar=False) @ np.cov(y, rowvar=False)
    trace_of_root = np.sqrt(np.linalg.eigvals(product).real.clip(min=0)).sum()
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x, rowvar=False) + np.cov(y, rowvar=False))
    # the product's zero eigenvalues come back as ±1e-17, whose roots are 1e-8 each
    assert frechet_distance(x, y) == pytest.approx(expected - 2 * trace_of_root, abs=1e-5)


@settings(deadline=None, max_examples=50)
@given(matrices, matrices, st.randoms(use_true_random=False))
def test_zero_for_equal_sets_symmetric_and_blind_to_order(x, y, random):
    scale = 1 + np.abs(x).max() ** 2 + np.abs(y).max() ** 2
    assert frechet_distance(x, x) <= 1e-9 * scale
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), abs=1e-9 * scale)
    order = random.sample(range(len(x)), len(x))
    assert frechet_distance(x[order], y) == pytest.approx(frechet_distance(x, y), abs=1e-9 * scale)


def test_a_shift_adds_its_square():
    x = np.random.default_rng(0).standard_normal((30, 5))
    assert frechet_distance(x + np.array([3, 4, 0, 0, 0]), x) == pytest.approx(25, abs=1e-9)


def test_infinity_is_the_intercept_and_removes_the_bias_of_few_samples():
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((20000, 8))
    generated = rng.standard_normal((2000, 8))  # the same distribution: the true distance is 0
    found = frechet_infinity(
        generated, reference, np.random.default_rng(1), num_steps=15, min_samples=100, replace=False
    )
    inverse = 1 / np.array(found.sizes)
    slope, intercept = np.polyfit(inverse, found.distances, 1)
    assert (found.value, found.slope) == pytest.approx((intercept, slope))
    assert found.sizes[0] == 100
    assert found.sizes[-1] == 2000
    assert len(found.sizes) == 15
    assert abs(found.value) < 0.05 * found.distances[0]
    assert abs(found.value) < 0.5 * frechet_distance(generated, reference)
    assert found.r_squared > 0.9


def test_infinity_is_repeatable_and_leaves_the_global_state_alone():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 3)), rng.standard_normal((60, 3))
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = frechet_infinity(x, y, np.random.default_rng(7), min_samples=20)
    assert one == frechet_infinity(x, y, np.random.default_rng(7), min_samples=20)
    assert one != frechet_infinity(x, y, np.random.default_rng(8), min_samples=20)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), "1 rows; at least 2"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "two backbones"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "nan or infinity in 4 of 4 rows"),
        (np.zeros(3), np.zeros((4, 3)), r"shape \(items, dimension\)"),
    ],
)
def test_bad_input(x, y, said):
    with pytest.raises(ValueError, match=said):
        frechet_distance(x, y)
