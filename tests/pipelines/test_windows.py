from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_stage

from open_musiclm.pipelines.pieces import stage_windows
from open_musiclm.pipelines.windows import Window, plan_windows, round_down, round_up, time_grid

rates = st.sampled_from([12.5, 25.0, 37.5, 50.0, 75.0, 86.1328125, 150.0])


@given(st.lists(rates, min_size=1, max_size=4))
def test_grid_is_whole_frames_of_each_stream(frame_rates):
    grid = time_grid(frame_rates)
    for rate in frame_rates:
        assert (grid * Fraction(rate).limit_denominator(1_000_000)).denominator == 1


def test_grid_of_the_published_rates():
    assert time_grid([50.0, 75.0]) == Fraction(1, 25)
    assert time_grid([50.0]) == Fraction(1, 50)


@given(st.integers(1, 3000), st.integers(2, 300), st.integers(1, 300))
def test_windows_cover_the_piece_in_whole_windows(duration, window, stride):
    grid = Fraction(1, 25)
    stride = min(stride, window)
    plan = plan_windows(duration * grid, window * grid, stride * grid, grid)
    assert plan[0].start == 0
    assert plan[-1].stop == duration * grid
    for before, after in pairwise(plan):
        assert before.start < after.start <= before.stop, "no gap"
        assert after.start - before.start <= stride * grid
        assert after.stop > before.stop
    lengths = {each.stop - each.start for each in plan}
    assert lengths == {min(duration, window) * grid}


@given(st.integers(1, 2000))
def test_semantic_and_acoustic_frames_of_a_window_never_slip(duration):
    """The original took 99 semantic tokens for 150 acoustic frames: 1 % a window."""
    grid = time_grid([50.0, 75.0])
    for window in plan_windows(duration * grid, Fraction(4), Fraction(2), grid):
        semantic, coarse = window.frames(50.0), window.frames(75.0)
        assert Fraction(semantic.start, 50) == Fraction(coarse.start, 75) == window.start
        assert Fraction(semantic.stop, 50) == Fraction(coarse.stop, 75) == window.stop


def test_published_windows():
    window = Window(Fraction(2), Fraction(6))
    assert window.frames(50.0, num_edge_frames=1) == slice(100, 299)  # 199 semantic tokens
    assert window.frames(75.0) == slice(150, 450)  # 300 frames


@given(st.floats(0.01, 1000, allow_nan=False))
def test_rounding_to_the_grid(time):
    grid = Fraction(1, 25)
    assert round_down(time, grid) <= Fraction(time).limit_denominator(1_000_000) <= round_up(time, grid)
    assert round_up(time, grid) - round_down(time, grid) <= grid


def test_a_whole_length_is_not_rounded_up():
    assert round_up(10.0, Fraction(1, 25)) == 10
    assert round_up(1.2, Fraction(1, 25)) == Fraction(6, 5)


@pytest.mark.parametrize("duration", [Fraction(0), Fraction(-1), Fraction(1, 26)])
def test_durations_off_the_grid_are_refused(duration):
    with pytest.raises(ValueError, match="multiple of the grid"):
        plan_windows(duration, Fraction(4), Fraction(2), Fraction(1, 25))


def test_a_stride_longer_than_the_window_is_refused():
    with pytest.raises(ValueError, match="stride"):
        plan_windows(Fraction(10), Fraction(2), Fraction(4), Fraction(1, 25))


@pytest.mark.parametrize("name", ["coarse", "fine"])
def test_a_short_first_window_covers_the_same_time(name):
    """Overlapping windows begin again at 0, primed with the first; those side by side follow it."""
    stage = tiny_stage(name)
    grid, first = Fraction(1, 25), Fraction(2, 5)
    for duration in (Fraction(5), Fraction(27, 5)):
        usual = list(stage_windows(stage, duration, grid))
        windows = list(stage_windows(stage, duration, grid, first))
        assert windows[0] == Window(Fraction(0), first)
        assert windows[1].start == (0 if name == "coarse" else first)
        assert windows[-1].stop == usual[-1].stop == duration
        assert all(later.start <= earlier.stop for earlier, later in pairwise(windows))
    endless = stage_windows(stage, None, grid, first)
    assert [next(endless) for _ in range(3)] == windows[:3]
    assert list(stage_windows(stage, first, grid, first)) == [Window(Fraction(0), first)]
