import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr

from open_musiclm.evaluation.metrics.divergence import kl_divergence, paired_kl_divergence

P, Q = np.array([0.1, 0.4, 0.5]), np.array([0.8, 0.15, 0.05])
distributions = st.lists(st.floats(0.01, 1), min_size=5, max_size=5).map(lambda v: np.array(v) / np.sum(v))


def test_known_value_and_direction():
    assert kl_divergence(P, Q) == pytest.approx(1.3356801, abs=1e-6)
    assert paired_kl_divergence([Q[None]], [P[None]], epsilon=0.0) == pytest.approx([1.3356801], abs=1e-6)
    other = paired_kl_divergence([Q[None]], [P[None]], "generated||reference", epsilon=0.0)
    assert other == pytest.approx(rel_entr(Q, P).sum(), abs=1e-12)
    both = paired_kl_divergence([Q[None]], [P[None]], "symmetric", epsilon=0.0)
    assert both == pytest.approx(other + 1.3356801, abs=1e-6)


def test_audiocraft_adds_its_constant_to_the_generated_side_only():
    import torch

    generated, reference = torch.tensor(Q)[None], torch.tensor(P)[None]
    theirs = torch.nn.functional.kl_div((generated + 1e-6).log(), reference, reduction="none").sum(-1)
    ours = paired_kl_divergence([Q[None]], [P[None]], epsilon=1e-6)
    assert ours == pytest.approx(theirs.numpy(), abs=1e-12)


@given(distributions, distributions)
def test_properties(p, q):
    assert kl_divergence(p, p) == pytest.approx(0, abs=1e-12)
    assert kl_divergence(p, q) >= -1e-12
    assert kl_divergence(p, q) == pytest.approx(rel_entr(p, q).sum(), abs=1e-9)


def test_zeros():
    assert kl_divergence([0.0, 1.0], [0.5, 0.5]) == pytest.approx(np.log(2))
    assert kl_divergence([0.5, 0.5], [0.0, 1.0]) == np.inf
    assert np.isfinite(kl_divergence([0.5, 0.5], [0.0, 1.0], epsilon=1e-6))


def test_windows_are_paired_and_averaged():
    generated = [np.stack([Q, P, Q])]
    reference = [np.stack([P, P])]  # the third window of the longer clip is left out
    assert paired_kl_divergence(generated, reference, epsilon=0.0) == pytest.approx([1.3356801 / 2], abs=1e-6)


@pytest.mark.parametrize(
    ("generated", "reference", "said"),
    [
        ([P[None]], [P[None], P[None]], "needs its own"),
        ([P[None] * 2], [P[None]], "sum to 1"),
        ([P[None][:0]], [P[None]], "no window"),
        ([P[None] * np.nan], [P[None]], "nan"),
    ],
)
def test_bad_input(generated, reference, said):
    with pytest.raises(ValueError, match=said):
        paired_kl_divergence(generated, reference)


def test_unknown_direction():
    with pytest.raises(ValueError, match="must be one of"):
        paired_kl_divergence([P[None]], [P[None]], direction="both")
