import pytest
import torch
from tiny import tiny_stage

from open_musiclm.decoding.threads import candidates, decoding_steps, fastest_num_threads


@pytest.mark.parametrize(("most", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_candidates(most, expected):
    assert candidates(most) == expected


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (lambda threads: 0.004 / threads, 4),  # a machine at rest
        (lambda threads: 0.001 if threads == 1 else 0.02, 1),  # beside a busy process
        (lambda threads: 0.004 if threads < 2 else 0.002, 2),  # more than the cores there are help nothing
        (lambda threads: 0.004, 1),
    ],
)
def test_the_number_is_chosen_by_what_a_step_costs(cost, expected):
    before, now = torch.get_num_threads(), [0.0]

    def step():
        now[0] += cost(torch.get_num_threads())

    assert fastest_num_threads(step, 4, clock=lambda: now[0]) == expected
    assert now[0] < 1.0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["semantic", "coarse", "fine"])
def test_steps_of_any_stage_can_be_measured(name):
    stage = tiny_stage(name)
    steps = decoding_steps(stage)
    for _ in range(60):  # longer than one run
        next(steps)
