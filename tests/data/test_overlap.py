import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_musiclm.data.overlap import overlapping_crops


@st.composite
def plans(draw):
    edge = draw(st.integers(0, 3))
    crop = draw(st.integers(edge + 2, 60))
    overlap = draw(st.integers(edge, crop - 1))
    return draw(st.integers(edge + 1, 400)), crop, overlap, edge


@given(plans())
def test_kept_frames_join_to_the_whole_file(plan):
    num_frames, crop, _overlap, edge = plan
    crops = overlapping_crops(*plan)
    kept = [frame for each in crops for frame in range(each.first, each.last)]
    assert kept == list(range(num_frames - edge))
    for each in crops:
        assert each.stop - each.start == min(crop, num_frames)
        assert 0 <= each.kept.start <= each.kept.stop <= each.stop - each.start - edge


@given(plans())
def test_a_frame_is_taken_where_it_is_farthest_from_an_edge(plan):
    _, _, _, edge = plan
    crops = overlapping_crops(*plan)

    def depth(crop, frame):
        return min(frame - crop.start, crop.stop - edge - 1 - frame)

    for chosen, other in [*itertools.pairwise(crops), *zip(crops[1:], crops, strict=False)]:
        for frame in range(chosen.first, chosen.last):
            assert depth(chosen, frame) >= depth(other, frame) - 1  # a tie may go either way by rounding


def test_neighbours_share_at_least_the_overlap():
    crops = overlapping_crops(1000, 100, 20)
    assert all(a.stop - b.start >= 20 for a, b in itertools.pairwise(crops))
    assert len(crops) == 13  # ceil((1000 - 100) / 80) + 1


def test_impossible_plans_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        overlapping_crops(100, 10, 10)
    with pytest.raises(ValueError, match="overlap"):
        overlapping_crops(100, 10, 0, num_edge_frames=1)
    with pytest.raises(ValueError, match="too few"):
        overlapping_crops(1, 10, 2, num_edge_frames=1)
