"""Filling a gap: what comes after the window is one more optional stream of the same codec, before the predicted one."""

import torch
from tiny import SIZES

from open_musiclm import MusicLMStageConfig, MusicLMStageModel, TokenStream
from open_musiclm.models.streams import PADDING_ID

CODEC = {"codebook_size": 16, "num_codebooks": 2, "frame_rate": 10.0, "source": "codec"}


def filling_stage() -> MusicLMStageModel:
    """CLAP, half a second that follows, and a window of a second to be filled."""
    torch.manual_seed(0)
    streams = [
        TokenStream("clap", 16, 3, pattern="parallel"),
        TokenStream("next", **CODEC, pattern="parallel", optional=True, context="after", context_in_s=0.5),
        TokenStream("acoustic", **CODEC, pattern="delay"),
    ]
    config = MusicLMStageConfig(
        streams=streams, window_in_s=1.0, window_stride_in_s=1.0, condition_dropout=0.1, **SIZES
    )
    model = MusicLMStageModel(config)
    model.generation_config.top_k = 0
    return model


def test_two_streams_of_one_source_keep_their_places():
    model = filling_stage()
    assert [(s.source, s.first_codebook) for s in model.streams[1:]] == [("codec", 0), ("codec", 0)]
    assert model.embeddings.keys() >= {"next", "acoustic"}


def test_a_context_that_is_left_out_is_as_long_as_it_would_be():
    model = filling_stage().eval()
    clap, frames = torch.randint(16, (2, 3)), torch.randint(16, (2, 10, 2))
    hidden = torch.full((2, 5, 2), PADDING_ID)
    left_out = model(clap_token_ids=clap, acoustic_token_ids=frames).logits
    torch.testing.assert_close(
        left_out, model(clap_token_ids=clap, acoustic_token_ids=frames, next_token_ids=hidden).logits
    )


def test_a_stage_learns_to_run_into_what_follows():
    """Clips that rise to a goal: the window before a given continuation ends beside it, with no context it does not."""
    model = filling_stage().train()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    steps = torch.arange(15)[:, None]

    def clips(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = torch.randint(16, (count, 1, 2), generator=generator)
        whole = (start + steps) % 16  # each codebook counts on, from anywhere
        return whole[:, :10], whole[:, 10:]

    clap = torch.zeros(32, 3, dtype=torch.long)
    for _ in range(120):
        window, following = clips(32)
        streams = {"clap_token_ids": clap, "next_token_ids": following, "acoustic_token_ids": window}
        loss = model(**streams, labels=window).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    window, following = clips(32)
    draws = [torch.Generator().manual_seed(index) for index in range(32)]
    filled = model.eval().generate(10, clap_token_ids=clap, next_token_ids=following, generator=draws)
    blind = model.generate(10, clap_token_ids=clap, generator=draws)
    meets = [((made[:, -1] + 1) % 16 == following[:, 0]).float().mean().item() for made in (filled, blind)]
    assert meets[0] > 0.5, meets
    assert meets[1] < 0.25, meets
