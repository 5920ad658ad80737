"""Between the windows of a piece nothing asks a device for a value: a GPU would have to finish all that it was given."""

from fractions import Fraction

import pytest
import torch
from tiny import patterned_stage, tiny_pipeline, tiny_stage
from torch.utils._python_dispatch import TorchDispatchMode

from open_musiclm.decoding import cuda_graph
from open_musiclm.pipelines.pieces import Piece, cut_conditions, stage_windows

#: operations that give the host a value, or a shape that depends on one
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero", "item")


class Asked(TorchDispatchMode):
    """Writes down what asks for a value."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[-1].split(".")[0]
        masks = any(
            torch.is_tensor(each) and each.dtype == torch.bool for each in (args[1] if name == "index" else ())
        )
        if name in ASKING or masks:
            self.operations.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def static(monkeypatch):
    """The way that a GPU decodes, on a CPU."""
    monkeypatch.setattr(cuda_graph, "can_record_steps", lambda device: True)


def stages():
    return {
        "semantic": tiny_stage("semantic", window_in_s=1.0, window_stride_in_s=0.4),
        "coarse": tiny_stage("coarse", window_in_s=1.0, window_stride_in_s=0.4),
        "delay": patterned_stage("parallel", "delay", window_in_s=1.0, window_stride_in_s=0.5),
    }


def piece_of(model, batch_size, looked_at, **settings):
    duration, grid = Fraction(4), Fraction(1, 5)
    generator = torch.Generator().manual_seed(0)
    conditions = {}
    for stream in model.condition_streams:
        frames = 1 if stream.frame_rate is None else int(duration * int(stream.frame_rate))
        shape = (batch_size, frames) if stream.num_codebooks == 1 else (batch_size, frames, stream.num_codebooks)
        ids = torch.randint(stream.codebook_size, shape, generator=generator)
        conditions[stream.argument] = ids if stream.frame_rate is not None else ids.flatten(1)
    return Piece(
        model,
        stage_windows(model, duration, grid),
        lambda window: cut_conditions(model, conditions, window),
        [torch.Generator().manual_seed(number) for number in range(batch_size)],
        settings={"fast": "graph", **settings},
        checked=looked_at,
    )


def windows(piece):
    """What is asked in each window, and the tokens."""
    asked, stop = [], -1
    while piece.num_frames < piece.stream.frame_rate * 4 - piece.stream.num_edge_frames:
        with Asked() as mode:
            piece.advance(piece.num_frames + 1)  # begins the window
            stop = piece.under_way[0].stop
            tokens = piece.advance(stop)
        asked.append(mode.operations)
    return asked, tokens


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("stage", stages())
@torch.no_grad()
def test_windows_of_a_shape_that_came_up_ask_for_nothing(stage, batch_size):
    """The first window of a shape may compare masks, and the second is recorded and held against it."""
    model = stages()[stage]
    asked, tokens = windows(piece_of(model, batch_size, True))
    assert len(asked) > 5
    assert any(asked[:3]), "the test sees what is asked"
    assert [each for each in asked[3:-1] if each] == []
    unchecked, expected = windows(piece_of(model, batch_size, False))
    assert all(unchecked), "without `checked`, ids are looked at in each window"
    assert torch.equal(tokens, expected)


def test_ids_among_the_settings_are_looked_at():
    model = tiny_stage("coarse")
    assert not piece_of(model, 1, True, semantic_token_ids=torch.zeros(1, 4)).checked
    assert piece_of(model, 1, True, temperature=0.5).checked


def test_checked_is_no_setting():
    model = tiny_stage("coarse")
    with pytest.raises(ValueError, match="does not know the setting 'checked'"):
        model.generate(4, clap_token_ids=torch.zeros(1, 3, dtype=torch.long), checked=True)
    with pytest.raises(ValueError, match="does not know the setting 'checked'"):
        piece_of(model, 1, True, checked=True)
    with pytest.raises(ValueError, match="does not know the setting 'checked'"):
        tiny_pipeline()("a piano", audio_length_in_s=1.0, semantic_settings={"checked": True})


def test_what_a_pipeline_is_given_is_looked_at_where_it_comes_in():
    pipe = tiny_pipeline()
    wrong = torch.full((1, 3), 16)
    for ask in (
        lambda: pipe(clap_token_ids=wrong, audio_length_in_s=1.0),
        lambda: pipe.generate_tokens("semantic", {"clap": wrong}, 1.0),
        lambda: pipe.stream(clap_token_ids=wrong, audio_length_in_s=1.0),
    ):
        with pytest.raises(
            ValueError, match=r"`clap_token_ids` holds the id 16; ids of stream 'clap' lie in \[0, 16\)"
        ):
            ask()
