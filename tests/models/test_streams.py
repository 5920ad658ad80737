import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from open_musiclm.models.streams import (
    PADDING_ID,
    TokenStream,
    check_token_range,
    embedding_rows,
    flatten_tokens,
    unflatten_tokens,
)

sizes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(1, 9))


@given(sizes)
def test_layout_is_frame_by_frame_and_comes_back(sizes):
    batch, frames, codebooks, codebook_size = sizes
    stream = TokenStream("any", codebook_size, codebooks, frame_rate=10.0)
    ids = torch.randint(codebook_size, (batch, frames, codebooks))
    flat = flatten_tokens(ids, stream)
    for frame in range(frames):
        for codebook in range(codebooks):
            assert torch.equal(flat[:, frame * codebooks + codebook], ids[:, frame, codebook])
    back = unflatten_tokens(flat, stream)
    assert torch.equal(back, ids.squeeze(-1) if codebooks == 1 else ids)


@given(sizes, st.integers(0, 7))
def test_embedding_rows_follow_the_codebook_of_the_index(sizes, first):
    batch, frames, codebooks, codebook_size = sizes
    stream = TokenStream("any", codebook_size, codebooks)
    ids = torch.randint(codebook_size, (batch, frames * codebooks))
    rows = embedding_rows(ids[..., None], stream, first)[..., 0]
    for index in range(ids.shape[1]):
        assert torch.equal(rows[:, index], ids[:, index] + codebook_size * ((index + first) % codebooks))
    assert rows.max() < stream.num_embeddings


def test_eos_shares_a_row_with_the_next_codebook():
    stream = TokenStream("clap", 1024, 12)
    eos = embedding_rows(torch.full((1, 13, 1), stream.eos_id), stream)[0, 12, 0]
    assert eos == 1024 == embedding_rows(torch.zeros(1, 2, 1, dtype=torch.long), stream)[0, 1, 0]
    assert stream.num_embeddings == 1025 * 12


def test_a_global_stream_takes_its_codebooks_in_the_frames_place():
    ids = torch.arange(8).reshape(2, 4, 1)
    assert torch.equal(flatten_tokens(ids, TokenStream("clap", 8, 4)), ids.squeeze(-1))
    with pytest.raises(ValueError, match="1 codebooks"):
        flatten_tokens(ids, TokenStream("coarse", 8, 4, frame_rate=50.0))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(2, 3), "integer ids"),
        (torch.zeros(2, 3, 2, dtype=torch.long), "2 codebooks"),
        (torch.zeros(3, dtype=torch.long), "shape"),
        ([[1, 2]], "integer ids"),
    ],
)
def test_wrong_tensors_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        flatten_tokens(ids, TokenStream("coarse", 8, 3, frame_rate=50.0))


@pytest.mark.parametrize("wrong", [8, 1000, -2])
def test_ids_outside_the_codebook_are_named(wrong):
    stream = TokenStream("coarse", 8, 3)
    check_token_range(torch.tensor([[0, 7, PADDING_ID]]), stream)
    with pytest.raises(ValueError, match=f"coarse_token_ids.*{wrong}"):
        check_token_range(torch.tensor([[0, wrong, 1]]), stream)


@pytest.mark.parametrize("fields", [{"name": "a b"}, {"codebook_size": 0}, {"num_codebooks": 0}, {"frame_rate": 0.0}])
def test_streams_that_make_no_sense_are_refused(fields):
    with pytest.raises(ValueError, match=r"name|must be"):
        TokenStream(**{"name": "x", "codebook_size": 4, **fields})
