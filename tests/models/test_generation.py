import pytest
import torch
from goldens import STAGES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny import tiny_stage
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from open_musiclm.decoding.sampling import (
    NOISE_BLOCK,
    GumbelNoise,
    resolve_generators,
    sample_tokens,
    spawn_generators,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditions(model, batch: int = 2, frames: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    return {
        s.argument: torch.randint(
            s.codebook_size, (batch, (1 if s.frame_rate is None else frames) * s.num_codebooks), generator=seeded(seed)
        )
        for s in model.condition_streams
    }


@pytest.mark.parametrize("stage", STAGES)
def test_shape_and_range(stage):
    model = tiny_stage(stage)
    tokens = model.generate(9, **conditions(model), generator=seeded(0))
    stream = model.predicted_stream
    assert tokens.shape == ((2, 9) if stream.num_codebooks == 1 else (2, 9, stream.num_codebooks))
    assert tokens.min() >= 0
    assert tokens.max() < stream.codebook_size  # EOS is forbidden


@pytest.mark.parametrize("stage", STAGES)
def test_cache_or_not_and_seed_or_seed(stage):
    model = tiny_stage(stage)
    given = conditions(model)
    first = model.generate(8, **given, generator=seeded(3))
    assert torch.equal(first, model.generate(8, **given, generator=seeded(3)))
    assert torch.equal(first, model.generate(8, **given, generator=seeded(3), use_cache=False))
    assert not torch.equal(first, model.generate(8, **given, generator=seeded(4)))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 1000))
def test_a_sample_depends_on_its_own_generator_only(batch, place, seed):
    place %= batch
    model = tiny_stage("coarse")
    given = conditions(model, batch, seed=seed)
    together = model.generate(5, **given, generator=[seeded(seed + index) for index in range(batch)])
    alone = model.generate(
        5, **{name: ids[place : place + 1] for name, ids in given.items()}, generator=seeded(seed + place)
    )
    assert torch.equal(together[place], alone[0])


def test_global_random_state_is_neither_read_nor_set():
    model = tiny_stage("semantic")
    given = conditions(model)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = model.generate(20, **given, generator=seeded(0))
    other = model.generate(20, **given)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(one, model.generate(20, **given, generator=seeded(0)))
    torch.manual_seed(1)
    assert not torch.equal(other, model.generate(20, **given)), "no generator must not mean the global one"


@pytest.mark.parametrize("stage", STAGES)
def test_a_beginning_is_kept_and_continued_as_if_never_left(stage):
    model = tiny_stage(stage)
    given = conditions(model)
    whole = model.generate(9, **given, do_sample=False)
    argument = model.predicted_stream.argument
    assert torch.equal(whole, model.generate(9, **given, **{argument: whole[:, :4]}, do_sample=False))
    assert torch.equal(whole, model.generate(9, **given, **{argument: whole}))


def test_eos_switch_of_the_generation_config():
    model = tiny_stage("coarse")
    given = conditions(model)
    with torch.no_grad():
        for mask in (True, False):
            first = model(**given, mask_condition_eos=mask).logits[:, -1, :-1].argmax(-1)
            model.generation_config.mask_condition_eos = mask
            assert torch.equal(model.generate(1, **given, do_sample=False)[:, 0, 0], first)
        model.generation_config.mask_condition_eos = True
        scores = [model(**given, mask_condition_eos=mask).logits[:, -1] for mask in (True, False)]
    assert not torch.allclose(*scores)


def test_sampling_settings_are_honoured():
    model = tiny_stage("semantic")
    given = conditions(model, batch=1)
    greedy = model.generate(30, **given, do_sample=False)
    assert torch.equal(greedy, model.generate(30, **given, top_k=1))
    assert torch.equal(greedy, model.generate(30, **given, temperature=1e-4, generator=seeded(0)))
    assert torch.equal(greedy, model.generate(30, **given, generation_config=GenerationConfig(do_sample=False)))
    wide = model.generate(200, **given, top_k=20, temperature=50.0, generator=seeded(0))
    assert len(wide.unique()) > 15


def test_custom_logits_processors_see_the_tokens_so_far():
    class Count(LogitsProcessor):
        """Token i must be i."""

        def __call__(self, input_ids, scores):
            assert torch.equal(input_ids[0], torch.arange(input_ids.shape[1]))
            scores = torch.full_like(scores, -1e9)
            scores[:, input_ids.shape[1]] = 0.0
            return scores

    model = tiny_stage("semantic")
    tokens = model.generate(10, **conditions(model, 1), logits_processor=LogitsProcessorList([Count()]))
    assert tokens.tolist() == [list(range(10))]


def test_draws_follow_the_softmax():
    scores = torch.tensor([1.0, 0.0, -1.0, 2.0])
    noise = iter(GumbelNoise([seeded(0)], 4, torch.device("cpu")))
    draws = torch.stack([sample_tokens(scores[None], next(noise)) for _ in range(4000)]).flatten()
    wanted = scores.double().softmax(0).numpy() * len(draws)
    assert stats.chisquare(torch.bincount(draws, minlength=4).double().numpy(), wanted).pvalue > 1e-3


def test_noise_of_a_sample_does_not_depend_on_the_others():
    alone = GumbelNoise([seeded(1)], 7, torch.device("cpu")).block()
    among = GumbelNoise([seeded(0), seeded(1), seeded(2)], 7, torch.device("cpu")).block()
    assert alone.shape == (NOISE_BLOCK, 1, 7)
    assert torch.equal(alone[:, 0], among[:, 1])
    assert not torch.equal(among[:, 0], among[:, 1])


def test_noise_drawn_beside_a_gpus_work_is_the_same():
    """As it is drawn for CUDA, by several threads into one piece of memory."""
    uniform = [GumbelNoise([seeded(n) for n in range(12)], 7, torch.device("cpu")) for _ in range(2)]
    for _ in range(3):
        assert torch.equal(uniform[0]._uniform(), uniform[1]._uniform_beside())
    on_gpu = torch.device("cuda")
    assert GumbelNoise([seeded(0), seeded(1)], 7, on_gpu)._draws_beside
    assert not GumbelNoise([seeded(0)] * 2, 7, on_gpu)._draws_beside, "the draws of one generator have an order"


def test_spawned_generators_are_apart():
    children = spawn_generators([seeded(0), seeded(1)], 3)
    assert len({child.initial_seed() for child in children}) == 6
    again = spawn_generators([seeded(1)], 3)
    assert [child.initial_seed() for child in children[3:]] == [child.initial_seed() for child in again]


def test_generators_must_match_the_batch():
    assert len(resolve_generators(seeded(0), 3)) == 3
    model = tiny_stage("semantic")
    with pytest.raises(ValueError, match="3 generators for a batch of 2"):
        model.generate(4, **conditions(model), generator=[seeded(i) for i in range(3)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "positive integer"),
        ({"num_frames": 2.5}, "positive integer"),
        ({"clap_token_ids": None}, "needs `clap_token_ids`"),
        ({"fine_token_ids": torch.zeros(2, 3, dtype=torch.long)}, "has no 'fine_token_ids'"),
        ({"coarse_token_ids": torch.zeros(2, 3, dtype=torch.long)}, "whole frames"),
        ({"coarse_token_ids": torch.zeros(2, 9, 2, dtype=torch.long)}, "already has 9 frames"),
        ({"coarse_token_ids": torch.full((2, 1, 2), -1)}, "padding"),
        ({"semantic_token_ids": torch.full((2, 6), 99)}, "99"),
        ({"heat": 3.0}, "'heat'"),
    ],
)
def test_what_cannot_be_generated_is_refused(change, message):
    model = tiny_stage("coarse")
    arguments = {"num_frames": 5, **conditions(model), **change}
    with pytest.raises(ValueError, match=message):
        model.generate(**{name: value for name, value in arguments.items() if value is not None})


def test_progress_is_reported():
    steps = []
    model = tiny_stage("coarse")
    model.generate(4, **conditions(model), on_token=steps.append)
    assert steps == list(range(1, 9))
