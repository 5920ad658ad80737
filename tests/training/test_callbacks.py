import math
import re
import warnings

import pytest
from transformers import TrainerControl, TrainerState

from open_musiclm.training import StuckLossCallback, TrainingProgressCallback, recommended_training_arguments


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


def test_progress_says_steps_loss_and_time_left(tmp_path, capsys):
    args = recommended_training_arguments("fine", tmp_path, use_cpu=True)
    state, control = TrainerState(max_steps=200, global_step=50), TrainerControl()  # resumed
    for on_screen in (False, True):
        callback = TrainingProgressCallback("fine", on_screen)
        state.global_step = 50
        callback.on_train_begin(args, state, control)
        for step in range(51, 61):
            state.global_step = step
            callback.on_step_end(args, state, control)
        callback.on_log(args, state, control, logs={"loss": 3.25, "learning_rate": 1e-4, "epoch": 0.1})
        callback.on_log(args, state, control, logs={"eval_loss": 3.5, "eval_accuracy": 0.125, "eval_runtime": 1.0})
        callback.on_log(args, state, control, logs={"train_runtime": 9.0})
        callback.on_train_end(args, state, control)
    said = capsys.readouterr()
    first, second, on_screen, *rest = said.out.splitlines()
    assert re.fullmatch(r"fine, step 60 of 200: loss 3.25, \S+ s a step, \d+ min left", first)
    assert second.startswith("fine, step 60 of 200: held-out loss 3.5, held-out accuracy 0.125, ")
    assert on_screen == "step 60: held-out loss 3.5, held-out accuracy 0.125"
    assert not rest
    bar = said.err.split("\r")[-1]
    assert bar.startswith("fine:  30%")
    assert "60/200" in bar
    assert "loss 3.25" in bar
