import pytest

from open_musiclm.evaluation.comparisons import Comparison, adjust, compare_distances
from open_musiclm.evaluation.records import Interval, MetricResult
from open_musiclm.evaluation.verdicts import judge, rank, unfit_clap

HIGHER = {"CLAP score": True, "FAD": False, "KAD": False, "Diversity": None}


def results(**figures):
    return [
        MetricResult(metric.replace("_", " "), system, value, HIGHER[metric.replace("_", " ")], 10)
        for metric, values in figures.items()
        for system, value in values.items()
    ]


def compared(metric, a, b, better, p_value):
    interval = Interval(0.0, 0.0, 0.95, "")
    return Comparison(metric, a, b, 0.0, interval, p_value, "", 10, better, adjusted_p_value=p_value)


def test_best_first_and_how_clearly():
    found = rank(
        results(
            FAD={"base": 0.5, "tuned": 0.2, "noise": 3.0},
            KAD={"base": 0.5, "tuned": 0.5},
            CLAP_score={"base": 0.3, "tuned": 0.31, "noise": float("nan")},
            Diversity={"base": 0.3, "tuned": 0.4},
        ),
        [
            compared("FAD", "base", "tuned", "tuned", 0.01),
            compared("FAD", "base", "noise", "base", 0.2),
            compared(
                "CLAP score", "base", "tuned", "base", 0.01
            ),  # on the prompts that both have, the other way round
        ],
    )
    assert [(r.metric, [(p.system, p.clear) for p in r.places]) for r in found] == [
        ("FAD", [("tuned", True), ("base", False), ("noise", None)]),
        ("CLAP score", [("tuned", False), ("base", None)]),
    ]


@pytest.mark.parametrize(
    ("better", "said"),
    [
        (("tuned", "tuned", "tuned"), "tuned is ahead of base in CLAP score, FAD and KAD."),
        (("tuned", None, "tuned"), "tuned is ahead of base in CLAP score and KAD; no clear difference in FAD."),
        (
            ("tuned", None, "base"),
            "tuned is ahead of base in CLAP score, behind it in KAD; no clear difference in FAD.",
        ),
        (("base", "base", None), "base is ahead of tuned in CLAP score and FAD; no clear difference in KAD."),
        ((None, None, None), "No clear difference between tuned and base (CLAP score, FAD, KAD)."),
    ],
)
def test_sentences(better, said):
    comparisons = [
        compared(metric, "base", "tuned", who or "base", 0.01 if who else 0.3)
        for metric, who in zip(("CLAP score", "FAD", "KAD"), better, strict=True)
    ]
    (verdict,) = judge(comparisons, ["base", "tuned"], None)
    assert str(verdict) == said
    assert verdict.better == ("tuned" if said.startswith("tuned") and "behind" not in said else
                              "base" if said.startswith("base") else None)  # fmt: skip


def test_controls_come_after_the_systems():
    comparisons = [
        compared("CLAP score", "tuned", "tuned (prompts shuffled)", "tuned", 0.001),
        compared("FAD", "tuned", "noise", "noise", 0.001),
        compared("KAD", "tuned", "noise", "tuned", 0.001),
        compared("FAD", "base", "tuned", "tuned", 0.001),
    ]
    found = judge(comparisons, ["base", "tuned"], "noise")
    assert [(v.a, v.b, v.is_control, v.better) for v in found] == [
        ("tuned", "base", False, "tuned"),
        ("tuned", "tuned (prompts shuffled)", True, "tuned"),
        ("tuned", "noise", True, None),
    ]
    assert str(found[2]) == "tuned is ahead of noise in KAD, behind it in FAD."
    assert found[0].as_dict()["better"] == "tuned"


def test_many_systems_can_still_be_told_apart():
    """A sampled permutation test has a smallest p-value, and Holm multiplies it by the number of pairs."""
    import numpy as np

    a, b = MetricResult("FAD", "a", 0.0, False, 12), MetricResult("FAD", "b", 0.0, False, 12)
    values = np.concatenate([np.zeros(12), np.ones(12)]) + np.arange(24) * 1e-3

    def distance(indices):
        return float(values[indices].mean())

    pairs = 28  # of eight systems
    found = compare_distances(a, b, distance, 12, seed=0, num_resamples=300, num_rivalries=pairs)
    others = [compared("FAD", "c", str(i), None, 0.9) for i in range(pairs - 1)]
    assert found.p_value * pairs < 0.05
    assert adjust([found, *others])[0].adjusted_p_value < 0.05


def test_a_clap_that_prefers_noise_is_called_unfit():
    scores = results(CLAP_score={"base": 0.1, "held-out": 0.2, "noise": 0.3})
    assert "unfit" in unfit_clap(scores, "noise", {"held-out": 0.2, "its own reference clips": 0.31})
    assert "white noise (0.300) no lower than held-out (0.200)" in unfit_clap(scores, "noise", {"held-out": 0.2})
    assert unfit_clap(scores, "noise", {"held-out": 0.4}) is None
    assert unfit_clap(scores, "noise", {}) is None
    assert unfit_clap(scores, None, {"held-out": 0.2}) is None
