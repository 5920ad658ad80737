"""Running out of memory is one clear error, and its numbers are those of the buffers."""

import pytest
import torch
from tiny import tiny_stage

from open_musiclm.decoding import memory, packed
from open_musiclm.decoding.interface import Request
from open_musiclm.decoding.memory import bytes_a_sample, bytes_of_prefill, free_bytes, largest_batch
from open_musiclm.decoding.packed import FastDecoder
from open_musiclm.decoding.plain import PlainDecoder
from open_musiclm.pipelines.pieces import rows_that_fit


def coarse_inputs(batch_size):
    ids = torch.zeros(batch_size, 20, dtype=torch.long)
    return {"clap_token_ids": ids[:, :3], "semantic_token_ids": ids}


@pytest.mark.parametrize("conv", [True, False])
def test_a_samples_bytes_are_its_buffers(conv):
    model = tiny_stage("coarse", use_conv_feed_forward=conv)
    decoder = FastDecoder(model, Request(coarse_inputs(2), 2, 30))
    with torch.no_grad():
        decoder.prefill(torch.zeros(2, 4, 1, dtype=torch.long))
    buffers = [t for state in decoder.states for t in (state.keys, state.values, *state.conv_inputs)]
    held = sum(t.numel() * t.element_size() for t in buffers) / 2
    rows = decoder.states[0].keys.shape[1]
    estimate = bytes_a_sample(model.config, rows, torch.float32)
    # the newest convolution input is counted too: it lives for the length of a step
    newest = 2 * model.config.intermediate_size * 4 * model.config.num_hidden_layers if conv else 0
    assert estimate == held + newest


@pytest.mark.parametrize("free", [0, 10_000, 1_000_000, 123_456_789])
def test_the_batch_that_fits(free):
    config = tiny_stage("coarse").config
    fits = largest_batch(config, 100, 300, torch.float32, free)

    def needed(batch_size):
        prefill = bytes_of_prefill(config, 100, batch_size, 300, torch.float32)
        return batch_size * bytes_a_sample(config, 100, torch.float32) + prefill

    usable = free * memory.USABLE_SHARE
    assert fits == 0 or needed(fits) <= usable
    assert needed(fits + 1) > usable


@pytest.mark.parametrize("fast", [True, False])
def test_the_error_names_the_batch(monkeypatch, fast):
    model = tiny_stage("coarse")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2_000_000)

    def fail(*_, **__):
        torch.empty(2**50)  # a real allocation that fails

    monkeypatch.setattr(FastDecoder if fast else PlainDecoder, "decode_one_step", fail)
    with pytest.raises(MemoryError, match=r"cannot make 64 samples .* 0\.0 GB are free; a batch of \d+ would fit"):
        model.generate(10, fast=fast, **coarse_inputs(64))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10)
    with pytest.raises(MemoryError, match="not even one sample fits"):
        model.generate(10, fast=fast, **coarse_inputs(64))
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    with pytest.raises(MemoryError, match="cannot make 2 samples"):
        model.generate(10, fast=fast, **coarse_inputs(2))


def test_other_errors_stay_what_they_are(monkeypatch):
    model = tiny_stage("coarse")

    def fail(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(packed.FastDecoder, "decode_one_step", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        model.generate(10, **coarse_inputs(1))


def test_free_memory_of_this_machine():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert free_bytes(torch.device("meta")) is None


def test_windows_made_together_fit_into_half_the_memory():
    stage = tiny_stage("fine")
    num_rows = 3 + 2 + 50 * 2 + 2 + 50 * 3 + 2

    def needed(rows):
        prefill = bytes_of_prefill(stage.config, num_rows, rows, 65536, stage.dtype)
        return rows * bytes_a_sample(stage.config, num_rows, stage.dtype) + prefill

    assert rows_that_fit(stage, 1000) == 0
    for free in (10**7, 10**8, 10**9):
        rows = rows_that_fit(stage, free)
        assert needed(rows) <= 0.45 * free < needed(2 * rows)
