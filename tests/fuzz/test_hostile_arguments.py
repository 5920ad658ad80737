"""Item 10: whatever a call is given, it makes music or says in one line, as a `ValueError`, what is needed."""

import numpy as np
import pytest
import torch
from asking import asking_pipeline
from tally import VALUES, Tally, pick, seeded

from open_musiclm.given import shown
from open_musiclm.pipelines.output import MusicLMPipelineOutput

RATE = 8000
SOUND = 0.3 * np.sin(np.arange(2 * RATE) * 2 * np.pi * 330 / RATE)[None].astype(np.float32)


@pytest.fixture(scope="module")
def pipe():
    return asking_pipeline()


SETTINGS = ("settings", "semantic_settings", "coarse_settings", "fine_settings")
TOKENS = (
    "clap_token_ids",
    "semantic_token_ids",
    "coarse_token_ids",
    "fine_token_ids",
    "tempo_token_ids",
    "melody_token_ids",
)
ASKED = ("tempo", "melody", "key", "timing", "lyrics", "genre")
SHARED = (*SETTINGS, *TOKENS, *ASKED, "generator", "negative_prompt", "guidance_scale", "reference_audio", "reference_weight",
          "transition_in_s", "beginnings", "output_type", "nope")  # fmt: skip
#: what is called → what it is given, and the arguments that others stand for
CALLS = {
    "call": (lambda pipe, **given: pipe(**given), {"prompt": "a", "audio_length_in_s": 0.5},
             ("prompt", "audio_length_in_s", "num_waveforms_per_prompt", "num_candidates", "callback_on_step_end", "loop", *SHARED)),
    "stream": (lambda pipe, **given: next(pipe.stream(**given)), {"prompt": "a", "audio_length_in_s": 0.5},
               ("prompt", "audio_length_in_s", "num_waveforms_per_prompt", "first_window_in_s", *SHARED)),
    "encode_prompt": (lambda pipe, **given: pipe.encode_prompt(**given), {"prompt": "a"}, ("prompt",)),
    "generate_tokens": (lambda pipe, **given: pipe.generate_tokens(**given),
                        {"stage": "semantic", "tokens": {"clap": [[1, 2, 3]]}, "audio_length_in_s": 0.5},
                        ("stage", "tokens", "audio_length_in_s", "generator", "on_token", "temperature", "top_k", "top_p", "fast", "do_sample",
                         "guidance_scale", "negative_streams", "logits_processor", "generation_config", "num_frames")),
    "generate_coarse_tokens": (lambda pipe, **given: pipe.generate_coarse_tokens(**given),
                               {"clap_token_ids": [[1, 2, 3]], "semantic_token_ids": [[1] * 49], "audio_length_in_s": 0.5},
                               ("clap_token_ids", "semantic_token_ids", "audio_length_in_s", "generator", "on_token", "temperature")),
    "decode_streams": (lambda pipe, **given: pipe.decode_streams(**given), {"tokens": {"coarse": [[[1, 2]]]}}, ("tokens", "audio_length_in_s")),
    "decode_tokens": (lambda pipe, **given: pipe.decode_tokens(**given),
                      {"coarse_token_ids": [[[1, 2]]], "fine_token_ids": [[[1, 2, 3]]]}, ("coarse_token_ids", "fine_token_ids", "audio_length_in_s")),
    "encode_audio": (lambda pipe, **given: pipe.encode_audio(**given), {"audio": (SOUND, RATE)}, ("audio", "streams")),
    "continue_audio": (lambda pipe, **given: pipe.continue_audio(**given), {"audio": (SOUND, RATE), "audio_length_in_s": 0.5},
                       ("audio", "audio_length_in_s", "prompt", "num_variants", *SHARED)),
    "edit_audio": (lambda pipe, **given: pipe.edit_audio(**given), {"audio": (SOUND, RATE), "start_in_s": 0.5, "stop_in_s": 1.0, "num_candidates": 1},
                   ("audio", "start_in_s", "stop_in_s", "way", "new_length_in_s", "prompt", "num_variants", "num_candidates", *SHARED)),
    "loop_audio": (lambda pipe, **given: pipe.loop_audio(**given), {"audio": (SOUND, RATE), "seam_in_s": 0.5, "num_candidates": 1},
                   ("audio", "seam_in_s", "prompt", *SHARED)),
    "remake_audio": (lambda pipe, **given: pipe.remake_audio(**given), {"audio": (SOUND, RATE)}, ("audio", "keep", "prompt", "num_waveforms", *SHARED)),
    "load_lora_weights": (lambda pipe, **given: pipe.load_lora_weights(given["adapter"], weights=given.get("weights")),
                          {"adapter": "nowhere/at all"}, ("adapter", "weights")),
}  # fmt: skip


def check_made(made) -> None:
    """Finite samples, or tokens."""
    if isinstance(made, MusicLMPipelineOutput):
        made = made.audios
    made = getattr(made, "audios", made)
    for part in made.values() if isinstance(made, dict) else [made]:
        assert isinstance(part, np.ndarray | torch.Tensor), f"made a {type(part).__name__}"
        assert np.isfinite(np.asarray(part)).all(), "not finite"


def ascii_of(values: dict) -> str:
    """For the list of failures."""
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


@pytest.mark.filterwarnings("ignore")
def test_arguments_of_every_kind(pipe, number):
    tally = Tally("10 arguments of every kind", (ValueError,), 900)
    index = 0
    for name, (call, base, arguments) in CALLS.items():
        for _ in range(len(arguments) * number(1, 40)):
            index += 1
            random = seeded(index)
            given = dict(base)
            for _ in range(random.integers(1, 3)):
                given[pick(random, arguments)] = pick(random, VALUES)

            def made(call=call, given=given, name=name):
                found = call(pipe, **given)
                if name != "load_lora_weights":
                    check_made(found)

            odd = {key: value for key, value in given.items() if value is not base.get(key)}
            tally.attempt((name, index, ascii_of(odd)), made)
    tally.finish()
