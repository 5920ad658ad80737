"""What the recipe of the model in the box writes into its streams is what a request for the same thing becomes."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from open_musiclm import MusicLMStageConfig, MusicLMStageModel, TokenStream
from open_musiclm.models.streams import PADDING_ID
from open_musiclm.tokenizers.attributes import find_attribute

sys.path.append(str(Path(__file__).parents[2] / "examples" / "mini"))
from aligning import start_aligned, told_to_sing
from compose import VOWELS, compose, draw_truth, frame_truth
from describe import DESCRIPTIONS, describe, end_is_near, stretched, with_end, with_singer
from recipe import Recipe
from silence import harmony_weighs, hide_all_but_ends, is_silent, put_in_rests, silenced


@pytest.mark.parametrize("seed", range(6))
def test_a_clips_ids_are_those_of_a_request_for_it(seed):
    rng = np.random.default_rng(seed)
    score = compose(draw_truth(rng, 10.0), rng)
    truth = score.truth
    said = describe(truth, frame_truth(score, 10.0))
    requests = {
        "tempo": truth.tempo_in_bpm,
        "key": f"{truth.key} {truth.mode}",
        "genre": truth.genre,
        "artist": truth.artist,
        "timing": (truth.total_length_in_s, truth.start_in_s),
    }
    for name, request in requests.items():
        stream = TokenStream(name, optional=True, **DESCRIPTIONS[name])
        ids = find_attribute(name).from_request(request, stream, 10.0)
        assert np.array_equal(ids, said[name]), name


def test_a_clip_of_a_longer_piece_sounds_the_same():
    """A clip is said to be of a piece of up to ten minutes, wherever its sound does not tell."""
    lengths = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        score = compose(draw_truth(rng, 10.0), rng)
        truth, longer = score.truth, stretched(score, 10.0, rng)
        assert 0 <= longer.start_in_s < longer.total_length_in_s + 2.5
        assert longer.total_length_in_s <= 600.0
        if truth.start_in_s == 0:
            assert longer.start_in_s == 0  # the intro is heard
        if end_is_near(score, 10.0):
            left = truth.total_length_in_s - truth.start_in_s
            assert longer.total_length_in_s - longer.start_in_s == pytest.approx(left, abs=1e-6)
        # bars repeat every four: what was moved is a whole number of those
        cycle_in_s = 4 * score.chords[-1].length / 25
        moved = (longer.start_in_s - truth.start_in_s) / cycle_in_s
        assert moved == pytest.approx(round(moved), abs=1e-6)
        frames = frame_truth(score, 10.0)
        silent = (frames["chord"] == 0) & (frames["lead"] == 0) & (frames["bass"] == 0)
        assert end_is_near(score, 10.0) or not silent[50:].any()
        lengths.append(longer.total_length_in_s)
    assert max(lengths) > 300
    assert 15 <= (np.array(lengths) > 60).sum() <= 40


def test_rests_are_put_into_histories_of_pieces_that_go_on_alone():
    drawn = torch.Generator().manual_seed(0)
    music = torch.stack([torch.randint(size, (512, 250), generator=drawn) + 1 for size in (100, 90, 80)], dim=-1)
    ended = music.clone()
    ended[:, 200:] = silenced(ended[:, 200:])
    rested = put_in_rests(music, torch.Generator().manual_seed(1))
    is_rest = is_silent(rested) & ~is_silent(music)
    assert torch.equal(rested[~is_rest], music[~is_rest])
    assert torch.equal(rested[is_rest], silenced(music)[is_rest])
    lengths = is_rest.sum(dim=1)
    assert 70 <= (lengths > 0).sum() <= 150
    first = is_rest[:, 0] & (lengths > 0)
    assert 25 <= first.sum() <= 80  # as windows of a long piece do that go on from silence
    assert (is_rest[first, :125].all(dim=1)).sum() > 10
    assert torch.equal(put_in_rests(ended, torch.Generator().manual_seed(1)), ended)


def test_what_decides_weighs_more():
    recipe = Recipe()
    more = harmony_weighs(torch.zeros(2, 249, 3, dtype=torch.long), recipe)
    assert torch.equal(more, recipe.harmony_weight * torch.tensor([0.0, 1.0, 0.0]).expand(2, 249, 3))

    lyrics = torch.full((3, 50, 1), len(VOWELS))  # nobody sings
    lyrics[1, 10:20], lyrics[2] = 2, PADDING_ID
    more = told_to_sing({"lyrics_token_ids": lyrics}, (3, 249, 3), recipe)
    assert more.shape == (3, 249, 3)
    assert torch.equal(more[1, :, 0].nonzero().flatten(), torch.arange(50, 100))
    assert not more[[0, 2]].any()
    assert told_to_sing({"lyrics_token_ids": lyrics[:, :0]}, (3, 249, 3), recipe) is None


@torch.no_grad()
def test_positions_point_at_the_frame_beside():
    streams = [
        TokenStream("lyrics", codebook_size=6, frame_rate=5.0, optional=True),
        TokenStream("clap", codebook_size=8),
        TokenStream("semantic", codebook_size=300, frame_rate=25.0),
    ]
    config = MusicLMStageConfig(
        streams=[s.to_dict() for s in streams], window_in_s=10.0, window_stride_in_s=10.0, max_position_embeddings=256,
        hidden_size=128, num_hidden_layers=1, num_attention_heads=2, head_dim=4,
    )  # fmt: skip
    torch.manual_seed(0)
    stage = MusicLMStageModel(config)
    start_aligned(stage, ("lyrics",))
    asking = stage.position_embeddings["semantic"].weight[:249]  # row t asks for frame t + 1
    found = (asking @ stage.position_embeddings["lyrics"].weight[:50].T).argmax(dim=1)
    away = (found - (torch.arange(249) + 1) // 5).abs()
    assert away.max() <= 1
    assert (away == 0).float().mean() > 0.85
    assert stage.position_embeddings["clap"].weight.std() < 0.2, "the rest is quiet"


def test_some_scores_are_given_to_a_singer():
    rng = np.random.default_rng(0)
    truths = [draw_truth(rng, 10.0) for _ in range(400)]
    sung = [with_singer(truth, rng) for truth in truths]
    assert 0.17 < np.mean([truth.instrument == "voice" for truth in sung]) < 0.26
    changed = [(before, after) for before, after in zip(truths, sung, strict=True) if before != after]
    assert all(after == replace(before, instrument="voice") for before, after in changed)


def test_some_scores_are_moved_to_where_their_piece_ends():
    rng, ends = np.random.default_rng(0), []
    for _ in range(300):
        truth = draw_truth(rng, 10.0)
        moved = with_end(truth, 10.0, rng)
        if moved != truth:
            assert moved.total_length_in_s == truth.total_length_in_s
            ends.append(moved.total_length_in_s - moved.start_in_s)
    assert 40 <= len(ends) <= 80
    assert 0.9 < min(ends) < 2 < 9 < max(ends) < 10.1


def test_ends_are_never_untold_where_anything_is_told():
    streams = [
        TokenStream("timing", optional=True, **DESCRIPTIONS["timing"]),
        TokenStream("genre", optional=True, **DESCRIPTIONS["genre"]),
        TokenStream("clap", codebook_size=8, num_codebooks=2),
        TokenStream("semantic", codebook_size=300, num_codebooks=3, frame_rate=25.0),
    ]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4}
    stage = MusicLMStageModel(
        MusicLMStageConfig(
            streams=[s.to_dict() for s in streams],
            window_in_s=10.0,
            window_stride_in_s=10.0,
            condition_dropout=0.3,
            **sizes,
        )
    )
    of_end, of_middle = (
        torch.from_numpy(find_attribute("timing").from_request((total, 11.0), streams[0], 10.0))
        for total in (20.0, 60.0)
    )
    batch = {
        "timing_token_ids": torch.stack([of_end] * 200 + [of_middle] * 200),
        "genre_token_ids": torch.zeros(400, 1, 2, dtype=torch.long),
        "clap_token_ids": torch.zeros(400, 2, dtype=torch.long),
        "semantic_token_ids": torch.zeros(400, 250, 3, dtype=torch.long),
    }
    torch.manual_seed(0)
    read = hide_all_but_ends(batch, stage)
    told = (read["timing_token_ids"] >= 0).flatten(1).all(dim=1)
    anything = (read["clap_token_ids"] >= 0).all(dim=1)
    assert 0.6 < anything.float().mean() < 0.8
    assert told[:200][anything[:200]].all()
    assert not told[~anything].any(), "guidance leads away from what knows nothing, ends included"
    assert 0.35 < told[200:].float().mean() < 0.65  # 0.7 · 0.7
    assert 0.35 < (read["genre_token_ids"][:200] >= 0).float().mean() < 0.65
    assert torch.equal(read["semantic_token_ids"], batch["semantic_token_ids"])
