import math
import warnings

import pytest
from transformers import TrainerControl, TrainerState

from open_musiclm.training import StuckLossCallback, recommended_training_arguments


def warned_at(losses, tmp_path, warmup=0, **settings):
    """The step at which a run with these losses, one every ten steps, was warned about; `None` if it was not."""
    args = recommended_training_arguments("fine", tmp_path, warmup_steps=warmup, use_cpu=True)
    callback = StuckLossCallback(1024, **settings)
    state = TrainerState(max_steps=10_000)
    for index, loss in enumerate(losses, start=1):
        state.global_step = 10 * index
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            callback.on_log(args, state, TrainerControl(), logs={"loss": loss})
        if caught:
            assert "another codebook" in str(caught[0].message)
            return state.global_step
    return None


GUESSING = math.log(1024)


@pytest.mark.parametrize(
    ("losses", "warmup", "step"),
    [
        ([GUESSING] * 30, 0, 110),  # from step 10 on, a hundred steps
        ([GUESSING * 1.019] * 30, 0, 110),
        ([GUESSING * 1.03] * 30, 0, None),  # worse than guessing, but it will move
        ([GUESSING] * 30, 150, 260),  # the warm-up does not count
        ([GUESSING] * 8 + [5.0] + [GUESSING] * 8, 0, None),
        ([GUESSING] * 8 + [5.0] + [GUESSING] * 20, 0, 200),
        ([6.5 - 0.01 * i for i in range(30)], 0, None),
    ],
)
def test_it_warns_of_a_loss_that_stays(tmp_path, losses, warmup, step):
    assert warned_at(losses, tmp_path, warmup) == step


def test_it_warns_once(tmp_path):
    args = recommended_training_arguments("fine", tmp_path, use_cpu=True)
    callback, state = StuckLossCallback(1024), TrainerState(max_steps=10_000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(0, 2000, 10):
            state.global_step = step
            callback.on_log(args, state, TrainerControl(), logs={"loss": GUESSING})
    assert len(caught) == 1
