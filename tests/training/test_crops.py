import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_stage

from open_musiclm.training import CropCollator

RATES = {"semantic": (25, 1), "coarse": (50, 2), "fine": (50, 3)}


def row(duration_in_s, key=(0, 0)):
    """Tokens that say when they are: the n-th frame of a stream holds n, modulo its codebook's size."""
    num_clap = max(int(duration_in_s - 10), 0) + 1
    rows = {"clap_token_ids": np.repeat(np.arange(num_clap, dtype=np.uint16)[:, None], 3, axis=1)}
    for name, (rate, num_codebooks) in RATES.items():
        frames = np.arange(int(duration_in_s * rate) - (name == "semantic"), dtype=np.uint16)
        rows[f"{name}_token_ids"] = np.repeat(frames[:, None], num_codebooks, axis=1)
    return {**rows, "crop_key": key}


def second(crop, name):
    """Where a crop of such tokens starts, in seconds."""
    return crop[f"{name}_token_ids"].flatten()[0] / RATES[name][0]


@pytest.mark.parametrize(("stage", "window"), [("semantic", 4), ("coarse", 2), ("fine", 1)])
def test_streams_are_cut_together_on_whole_seconds(stage, window):
    collator = CropCollator(tiny_stage(stage))
    starts = set()
    for crop_number in range(2000):
        crop = collator.crop(row(25.6, (3, crop_number)))
        framed = [name for name in RATES if f"{name}_token_ids" in crop]
        (start,) = {second(crop, name) for name in framed}
        assert start == int(start)
        assert 0 <= start <= 25 - window
        clap = crop["clap_token_ids"][0]
        assert clap <= start <= clap + 10 - window  # the inner window lies in the outer one
        starts.add(start)
        for name in framed:
            rate, num_codebooks = RATES[name]
            ids = crop[f"{name}_token_ids"].reshape(-1, num_codebooks)
            assert len(ids) == window * rate - (name == "semantic")
            assert np.array_equal(ids[:, 0], np.arange(len(ids)) + start * rate)
    assert starts == set(range(25 - window + 1))  # every whole second is drawn


def test_a_batch_is_what_forward_takes():
    stage = tiny_stage("coarse")
    rows = [row(12.0, (index, 0)) for index in range(3)]
    rows = [{name: ids % 16 if "token" in name else ids for name, ids in each.items()} for each in rows]
    batch = CropCollator(stage)(rows)
    assert {name: tuple(ids.shape) for name, ids in batch.items()} == {
        "clap_token_ids": (3, 3),
        "semantic_token_ids": (3, 49),
        "coarse_token_ids": (3, 100, 2),
        "labels": (3, 201),
    }
    assert torch.equal(batch["labels"][:, :-1], batch["coarse_token_ids"].flatten(1))
    assert (batch["labels"][:, -1] == 16).all()  # EOS
    stage.eval()
    own = stage(**batch).loss
    assert torch.equal(
        own, stage(**{**batch, "labels": batch["coarse_token_ids"]}).loss
    )  # which the model adds itself


@given(duration=st.floats(1.0, 40.0), seed=st.integers(0, 9), key=st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_a_crop_depends_on_its_key_alone(duration, seed, key):
    stage = tiny_stage("fine")
    one, other = CropCollator(stage, seed=seed), CropCollator(stage, seed=seed)
    other.crop(row(duration, (5, 5)))
    first, again = one.crop(row(duration, key)), other.crop(row(duration, key))
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_a_short_file_is_padded_and_the_padding_not_counted():
    stage = tiny_stage("coarse", forgetful_mask_prob=0.0, hidden_dropout=0.0)
    short = {name: ids % 16 if "token" in name else ids for name, ids in row(1.2).items()}
    batch = CropCollator(stage)([short])
    assert (batch["coarse_token_ids"][0, :60] >= 0).all()
    assert (batch["coarse_token_ids"][0, 60:] == -1).all()
    assert (batch["labels"][0, 120:] == -100).all()
    assert (batch["semantic_token_ids"][0, 29:] == -1).all()
    # beside a whole file the loss is the mean over the tokens there are
    whole = {name: ids % 16 if "token" in name else ids for name, ids in row(8.0).items()}
    both = stage(**CropCollator(stage)([short, whole])).loss
    alone = [stage(**CropCollator(stage)([each])).loss for each in (short, whole)]
    torch.testing.assert_close(both, (120 * alone[0] + 201 * alone[1]) / 321, rtol=1e-4, atol=1e-5)


def test_however_a_step_is_cut_each_token_counts_once():
    """Loss and gradient of two files, one shorter than the window, at once and one after the other."""
    stage = tiny_stage("coarse", forgetful_mask_prob=0.0, hidden_dropout=0.0)
    rows = [{name: ids % 16 if "token" in name else ids for name, ids in row(length).items()} for length in (1.2, 8.0)]
    collator = CropCollator(stage)

    def step(*batches):
        stage.zero_grad()
        num_items = sum((batch["labels"] != -100).sum() for batch in batches)
        losses = [stage(**batch, num_items_in_batch=num_items).loss for batch in batches]
        sum(losses).backward()
        gradients = {name: p.grad.clone() for name, p in stage.named_parameters() if p.grad is not None}
        return sum(losses), gradients

    at_once, gradients = step(collator(rows))
    torch.testing.assert_close(at_once, stage(**collator(rows)).loss)
    apart, others = step(*[collator([each]) for each in rows])
    torch.testing.assert_close(apart, at_once, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(others, gradients, rtol=1e-3, atol=1e-6)
    assert stage.accepts_loss_kwargs
    assert not tiny_stage(
        "coarse", loss_weights=[0.1, 0.1, 1.0]
    ).accepts_loss_kwargs  # of whose tokens nothing counts some


def test_rows_without_a_key_are_refused_with_the_remedy():
    rows = row(12.0)
    del rows["crop_key"]
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        CropCollator(tiny_stage("fine"))([rows])


def test_ids_of_another_codebook_are_refused():
    crop = row(25)
    crop["coarse_token_ids"] = np.minimum(crop["coarse_token_ids"], 15)
    crop["semantic_token_ids"] = np.minimum(crop["semantic_token_ids"], 19)
    CropCollator(tiny_stage("coarse"))([crop])
    crop["semantic_token_ids"][:] = 20
    with pytest.raises(ValueError, match="holds the id 20"):
        CropCollator(tiny_stage("coarse"))([crop])


def test_a_window_without_a_frame_is_refused():
    with pytest.raises(ValueError, match="no whole frame"):
        CropCollator(tiny_stage("coarse", window_in_s=0.01, window_stride_in_s=0.01))
