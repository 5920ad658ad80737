"""Fast decoding gives the tokens of the plain loop, for everything that a stage can be."""

import copy

import pytest
import torch
from goldens import CASES, STAGES, stage_inputs, stage_model
from tiny import tiny_stage
from transformers import LogitsProcessor, LogitsProcessorList

from open_musiclm.decoding import packed
from open_musiclm.decoding.interface import Request
from open_musiclm.decoding.packed import FastDecoder, Int8Decoder
from open_musiclm.decoding.packed_weights import pack_stage
from open_musiclm.decoding.plain import PlainDecoder
from open_musiclm.decoding.sampling import StandardSampling

FRAMES = {"semantic": 30, "coarse": 16, "fine": 12}


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


def conditions(model, batch_size, num_frames=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    streams = {}
    for stream in model.condition_streams:
        frames = 1 if stream.frame_rate is None else num_frames
        shape = (batch_size, frames * stream.num_codebooks)
        streams[stream.argument] = torch.randint(stream.codebook_size, shape, generator=generator)
    return streams


def both(model, batch_size=2, num_frames=12, seed=3, **settings):
    made = [
        model.generate(num_frames, generator=generators(batch_size, seed), fast=fast, **settings)
        for fast in (True, False)
    ]
    assert made[0].shape == made[1].shape
    return made


def can_be_packed(model) -> bool:
    return FastDecoder.supports(model, Request({}, 1, 1)) is None


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", CASES)
class TestOriginalWeights:
    """Convolution and none, continuous bias and none, absolute positions, a non-causal prefix."""

    def test_same_tokens(self, case, stage):
        model, inputs = stage_model(case, stage), stage_inputs(case, stage)
        beginning = inputs.pop(f"{stage}_token_ids")[:, :3]
        inputs = {name: torch.cat([ids, ids.flip(1)]) for name, ids in inputs.items()}
        beginning = torch.cat([beginning, beginning.flip(1)])
        for prime in ({}, {f"{stage}_token_ids": beginning}):
            for mask in (True, False):
                fast, plain = both(
                    model, len(beginning), FRAMES[stage], **inputs, **prime, mask_condition_eos=mask, temperature=0.9
                )
                assert torch.equal(fast, plain)
                assert len(fast.unique()) > 4

    def test_same_logits(self, case, stage):
        """Every step's logits, with samples that hide different keys."""
        model, inputs = stage_model(case, stage), stage_inputs(case, stage)
        ids = inputs.pop(f"{stage}_token_ids").flatten(1)
        inputs = {name: torch.cat([each, each.flip(1)]).flatten(1).clone() for name, each in inputs.items()}
        ids = torch.cat([ids, ids.flip(1)])[..., None]
        last = list(inputs)[-1]
        inputs[last][0, -4:] = -1
        with torch.no_grad():
            fast, plain = (each(model, Request(inputs, 2, ids.shape[1])) for each in (FastDecoder, PlainDecoder))
            first = model.predicted_stream.num_codebooks * 2
            torch.testing.assert_close(fast.prefill(ids[:, :first]), plain.prefill(ids[:, :first]))
            for index in range(first + 1, min(first + 20, ids.shape[1] + 1)):
                expected = plain.decode_one_step(ids[:, :index])
                torch.testing.assert_close(fast.decode_one_step(ids[:, :index]), expected, atol=2e-5, rtol=1e-4)


class TestShapes:
    def test_a_stage_of_one_stream(self):
        stream = {"name": "semantic", "codebook_size": 20, "frame_rate": 25.0}
        model = tiny_stage("semantic", [stream])
        beginning = torch.randint(20, (2, 1), generator=generators(1)[0])
        fast, plain = both(model, semantic_token_ids=beginning)
        assert torch.equal(fast, plain)

    def test_bucketed_bias(self):
        model = tiny_stage("coarse", position_bias_type="t5", relative_attention_max_distance=20)
        fast, plain = both(model, num_frames=20, **conditions(model, 2))
        assert torch.equal(fast, plain)

    @pytest.mark.parametrize("kernel", [1, 2, 5])
    def test_convolution_kernels(self, kernel):
        model = tiny_stage("coarse", conv_kernel_size=kernel)
        fast, plain = both(model, **conditions(model, 2))
        assert torch.equal(fast, plain)

    def test_zero_weights_are_no_division_by_zero(self):
        model = tiny_stage("semantic")
        with torch.no_grad():
            model.embeddings["semantic"].weight.zero_()
            model.decoder.layers[0].self_attn.q_proj.weight.zero_()
        fast, plain = both(model, **conditions(model, 2))
        assert torch.equal(fast, plain)

    @pytest.mark.parametrize("hidden", [True, False], ids=["keys hidden in one sample", "one mask for all"])
    def test_a_batch_is_prefilled_in_parts(self, monkeypatch, hidden):
        model = tiny_stage("coarse")
        streams = conditions(model, 5)
        if hidden:
            streams["semantic_token_ids"][3, -3:] = -1
        known = torch.randint(16, (5, 4, 1), generator=generators(1)[0])
        logits = []
        for rows in (4096, 60):
            monkeypatch.setitem(packed.ROWS_A_PREFILL, "cpu", rows)
            with torch.no_grad():
                logits.append(FastDecoder(model, Request(streams, 5, 12)).prefill(known))
        torch.testing.assert_close(*logits)
        assert torch.equal(*both(model, 5, **streams))

    def test_bfloat16_is_as_near_to_float32_as_the_plain_loop(self):
        """In bfloat16 tokens may part at near ties; the logits must be no worse than the plain loop's."""
        exact = stage_model("conv_continuous", "coarse")
        rounded = copy.deepcopy(exact).to(torch.bfloat16)
        inputs = stage_inputs("conv_continuous", "coarse")
        ids = inputs.pop("coarse_token_ids").flatten(1)[:1].repeat(5, 1)[..., None]
        inputs = {name: each[:1].flatten(1).repeat(5, 1) for name, each in inputs.items()}
        errors = {}
        for batch_size in (1, 5):  # two layouts of the keys
            streams = {name: each[:batch_size] for name, each in inputs.items()}
            request = Request(streams, batch_size, 40)
            decoders = {
                "exact": PlainDecoder(exact, request),
                "plain": PlainDecoder(rounded, request),
                "fast": FastDecoder(rounded, request),
            }
            logits = {name: [] for name in decoders}
            with torch.no_grad():
                for name, decoder in decoders.items():
                    logits[name].append(decoder.prefill(ids[:batch_size, :10]))
                    for index in range(11, 40):
                        logits[name].append(decoder.decode_one_step(ids[:batch_size, :index]))
            stacked = {name: torch.stack(each).float() for name, each in logits.items()}
            for name in ("plain", "fast"):
                errors[name] = (stacked[name] - stacked["exact"]).pow(2).mean().sqrt() / stacked["exact"].std()
            assert errors["fast"] < 1.5 * errors["plain"] + 1e-3
            assert errors["fast"] < 0.05


class TestInt8:
    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_logits_stay_near(self, batch_size):
        """Rounding rows to 255 steps moves logits by about a percent; beyond two samples it is not done."""
        model = stage_model("conv_continuous", "coarse").to(torch.bfloat16)
        inputs = stage_inputs("conv_continuous", "coarse")
        ids = inputs.pop("coarse_token_ids").flatten(1)[:1].repeat(batch_size, 1)[..., None]
        inputs = {name: each[:1].flatten(1).repeat(batch_size, 1) for name, each in inputs.items()}
        logits = {}
        for int8 in (True, False):
            decoder = (Int8Decoder if int8 else FastDecoder)(model, Request(inputs, batch_size, 40))
            with torch.no_grad():
                decoder.prefill(ids[:, :10])
                logits[int8] = torch.stack([decoder.decode_one_step(ids[:, :n]) for n in range(11, 40)]).float()
        off = (logits[True] - logits[False]).norm() / logits[False].norm()
        assert off == 0 if batch_size > 2 else 1e-4 < off < 0.04

    def test_only_where_it_is_of_use(self):
        model = tiny_stage("coarse")
        with pytest.raises(ValueError, match="bfloat16 on a CPU"):
            model.generate(4, fast="int8", **conditions(model, 1))
        with pytest.raises(ValueError, match="'int4'"):
            model.generate(4, fast="int4", **conditions(model, 1))
        made = model.to(torch.bfloat16).generate(4, fast="int8", **conditions(model, 1))
        assert made.shape == (1, 4, 2)


class TestSampling:
    @pytest.mark.parametrize(
        "settings",
        [{"do_sample": False}, {"temperature": 0.5, "top_k": 3}, {"top_k": 1}, {"top_k": 0}, {"top_k": 1000}],
        ids=str,
    )
    def test_standard_settings(self, settings):
        model = tiny_stage("coarse")
        fast, plain = both(model, 3, **conditions(model, 3), **settings)
        assert torch.equal(fast, plain)

    def test_ties_are_kept_as_the_processors_keep_them(self):
        logits = torch.tensor([[1.0, 2.0, 2.0, 0.0, 9.0]])  # the last is EOS
        noise = torch.tensor([[9.0, 0.0, 1.0, 9.0, 9.0]])
        assert StandardSampling(4, 1.0, 1)(logits, noise).item() == 2
        assert StandardSampling(4, 1.0, None)(logits, noise).item() == 0
        assert StandardSampling(4)(logits, None).item() == 1

    def test_unusual_processors_are_called(self):
        seen = []

        class OnlyEven(LogitsProcessor):
            def __call__(self, input_ids, scores):
                seen.append(input_ids.shape[1])
                scores[:, 1::2] = -torch.inf
                return scores

        model = tiny_stage("semantic")
        for settings in ({"logits_processor": LogitsProcessorList([OnlyEven()])}, {"top_p": 0.7}, {"min_p": 0.05}):
            fast, plain = both(model, num_frames=15, **conditions(model, 2), **settings)
            assert torch.equal(fast, plain)
            if "logits_processor" in settings:
                assert not (fast % 2).any()
        assert seen == [*range(15), *range(15)]

    def test_steps_are_reported(self):
        model, steps = tiny_stage("coarse"), []
        model.generate(6, **conditions(model, 1), on_token=steps.append)
        assert steps == list(range(1, 13))

    def test_a_run_in_pieces_is_the_whole(self):
        model = tiny_stage("coarse")
        streams = conditions(model, 2)
        whole = model.generate(12, generator=generators(2), **streams)
        run = model.start_generation(12, generator=generators(2), **streams)
        for frames in (1, 1, 5, 30):
            run.advance(frames)
            assert torch.equal(run.frames, whole[:, :frames])
        assert torch.equal(run.frames, whole)


class TestWhichModels:
    def test_changed_weights_are_packed_again(self):
        model = tiny_stage("coarse")
        streams = conditions(model, 2)
        before = both(model, **streams)[0]
        assert pack_stage(model) is pack_stage(model)
        with torch.no_grad():
            for layer in model.decoder.layers:
                layer.mlp.up_proj.weight.mul_(1.7)
        changed, plain = both(model, **streams)
        assert torch.equal(changed, plain)
        assert not torch.equal(changed, before)
        model.load_state_dict(tiny_stage("coarse", seed=5).state_dict())
        fast, plain = both(model, **streams)
        assert torch.equal(fast, plain)
        assert not torch.equal(fast, changed)

    def test_copies_and_pickles_know_nothing_of_packing(self):
        model = tiny_stage("semantic")
        both(model, **conditions(model, 2))
        other = copy.deepcopy(model)
        assert set(other.__dict__) == set(tiny_stage("semantic").__dict__)

    def test_models_with_anything_of_their_own_go_the_plain_way(self):
        model = tiny_stage("semantic")
        assert can_be_packed(model)
        assert not can_be_packed(copy.deepcopy(model).train())
        mixed = copy.deepcopy(model)
        mixed.decoder.layers[0].mlp.up_proj.to(torch.bfloat16)
        assert not can_be_packed(mixed)

        class Adapted(torch.nn.Linear):
            def forward(self, x):
                return super().forward(x) + 1

        adapted = copy.deepcopy(model)
        old = adapted.decoder.layers[0].self_attn.q_proj
        adapted.decoder.layers[0].self_attn.q_proj = Adapted(old.in_features, old.out_features, bias=False)
        assert not can_be_packed(adapted)

        calls = []
        hooked = copy.deepcopy(model)
        handle = hooked.decoder.norm.register_forward_hook(lambda *_: calls.append(1))
        hooked.generate(5, **conditions(model, 1))
        assert len(calls) == 5
        handle.remove()
        assert can_be_packed(hooked)

    def test_in_inference_mode(self):
        model = tiny_stage("coarse")
        streams = conditions(model, 2)
        expected = both(model, **streams)[1]
        with torch.inference_mode():
            made = copy.deepcopy(model).generate(12, generator=generators(2, 3), **streams)
        assert torch.equal(made, expected)
