import numpy as np
import pytest

from open_musiclm.evaluation.metrics.frechet import frechet_distance
from open_musiclm.evaluation.metrics.kernel import kernel_audio_distance
from open_musiclm.evaluation.metrics.statistics import (
    bootstrap_mean,
    half_sample_interval,
    holm,
    paired_sign_flip_test,
    paired_swap_test,
    wilcoxon_test,
)


def test_bootstrap_matches_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).exponential(size=60)
    ours = bootstrap_mean(values, np.random.default_rng(1), num_resamples=20000)
    theirs = bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(2))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
    assert "20000" in ours.method


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        interval = bootstrap_mean(rng.standard_normal(40) + 3, rng, num_resamples=300)
        hits += interval.low <= 3 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


def test_groups_are_drawn_together():
    values = np.repeat([0.0, 1.0, 0.0, 1.0], 50)  # four clips, fifty raters who all agree
    groups = np.repeat(["a", "b", "c", "d"], 50)
    wide = bootstrap_mean(values, np.random.default_rng(0), groups=groups)
    narrow = bootstrap_mean(values, np.random.default_rng(0))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


@pytest.mark.parametrize("distance", ["fad", "kad"])
def test_half_samples_cover_no_difference_between_equal_systems(distance):
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((200, 3))

    def measure(x):
        return frechet_distance(x, reference) if distance == "fad" else kernel_audio_distance(x, reference, 2.0)

    hits, trials = 0, 80
    for _ in range(trials):
        a, b = rng.standard_normal((2, 40, 3)) + 0.5

        def difference(indices, a=a, b=b):
            return measure(a[indices]) - measure(b[indices])

        interval = half_sample_interval(difference, 40, difference(np.arange(40)), rng, num_resamples=60)
        hits += interval.low <= 0 <= interval.high
    assert 0.85 <= hits / trials <= 1.0
    assert hits < trials  # intervals that always cover say nothing


def test_half_samples_have_the_right_width_for_a_mean():
    values = np.random.default_rng(0).standard_normal(101)
    interval = half_sample_interval(
        lambda i: values[i].mean(), 101, values.mean(), np.random.default_rng(1), num_resamples=4000
    )
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(101), rel=0.08)
    assert (interval.high + interval.low) / 2 == pytest.approx(values.mean(), abs=0.02)


def test_sign_flips_match_scipy():
    from scipy.stats import permutation_test

    differences = np.random.default_rng(3).standard_normal(10) + 0.5
    theirs = permutation_test(
        (differences, np.zeros(10)), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
        n_resamples=np.inf, vectorized=True,
    )  # fmt: skip
    assert paired_sign_flip_test(differences, np.random.default_rng(0)) == pytest.approx(theirs.pvalue, abs=1e-12)
    sampled = paired_sign_flip_test(differences, np.random.default_rng(0), num_permutations=1000)
    assert sampled == pytest.approx(theirs.pvalue, abs=0.04)
    assert paired_sign_flip_test(np.ones(30), np.random.default_rng(0)) == pytest.approx(1 / 10001)
    assert paired_sign_flip_test(np.zeros(5), np.random.default_rng(0)) == 1.0


def test_swaps_find_a_difference_and_only_where_there_is_one():
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((100, 3))

    def p_value(a, b, seed):
        def difference(swapped):
            mask = swapped[:, None]
            return frechet_distance(np.where(mask, b, a), reference) - frechet_distance(
                np.where(mask, a, b), reference
            )

        return paired_swap_test(difference, len(a), np.random.default_rng(seed), num_permutations=60)

    same = [p_value(*rng.standard_normal((2, 30, 3)), seed) for seed in range(20)]
    assert np.mean(np.array(same) < 0.05) <= 0.2
    assert p_value(rng.standard_normal((30, 3)), rng.standard_normal((30, 3)) + 3, 0) == pytest.approx(1 / 61)


def test_wilcoxon_and_holm():
    assert wilcoxon_test(np.zeros(10)) == 1.0
    assert wilcoxon_test(np.arange(1, 21)) < 1e-4
    assert wilcoxon_test([1, -1, 2, -2, 0, 0]) == pytest.approx(1.0)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9]) == pytest.approx([0.9])


def test_bad_input():
    with pytest.raises(ValueError, match="at least 2 values"):
        bootstrap_mean([1.0], np.random.default_rng(0))
    with pytest.raises(ValueError, match="one group"):
        bootstrap_mean([1.0, 2.0], np.random.default_rng(0), groups=["a", "a"])
    with pytest.raises(ValueError, match="at least 4"):
        half_sample_interval(lambda i: 0.0, 3, 0.0, np.random.default_rng(0))
