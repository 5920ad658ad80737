"""What `generate` can be asked for: settings that it does not heed are refused, not dropped."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any

from transformers import GenerationConfig

from ..given import as_number, shown

#: of transformers' `GenerationConfig`, those that change what a stage draws
HEEDED = frozenset(
    {
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "top_h",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "sequence_bias",
        "bad_words_ids",
        "suppress_tokens",
        "begin_suppress_tokens",
        "renormalize_logits",
        "remove_invalid_values",
        "guidance_scale",
        "use_cache",
        "mask_condition_eos",  # this package's own
    }
)
#: what to do instead
INSTEAD = {
    "num_return_sequences": "repeat the conditioning rows, or ask the pipeline for `num_waveforms_per_prompt`",
    "num_beams": "tokens are drawn or, with `do_sample=False`, the best is taken; there are no beams",
    "max_new_tokens": "the length is `num_frames`",
    "min_new_tokens": "the length is `num_frames`",
    "max_length": "the length is `num_frames`",
    "min_length": "the length is `num_frames`",
    "return_dict_in_generate": "token ids alone are returned",
    "output_scores": "token ids alone are returned",
    "output_logits": "token ids alone are returned; `forward` gives logits",
}
#: settings in (0, 1], in [0, 1], and above 0
SHARES = ("top_p", "typical_p")
SHARES_FROM_ZERO = ("min_p", "epsilon_cutoff", "eta_cutoff")
POSITIVE = ("temperature", "repetition_penalty")
NUMBERS = (*SHARES, *SHARES_FROM_ZERO, *POSITIVE, "top_k")


def check_settings(given: Mapping[str, Any], settings: GenerationConfig) -> None:
    """Refuse what a stage cannot be asked for.

    Args:
        given: by name, in a call.
        settings: all that hold, those of the call among them.

    Raises:
        ValueError: a setting that is not heeded here and not what transformers has by default, or a value out of range.
    """
    usual = GenerationConfig()
    asked = {name: getattr(settings, name, None) for name in ("num_beams", "num_return_sequences")} | dict(given)
    for name, value in asked.items():
        if name in HEEDED or value is None or value == getattr(usual, name, None):
            continue
        if name in ("num_beams", "num_return_sequences") and value == 1:
            continue
        if name == "return_dict_in_generate" and value is False:
            continue
        instead = INSTEAD.get(name, f"the settings there are: {', '.join(sorted(HEEDED))}")
        raise ValueError(f"`{name}={shown(value)}` is not heeded by a stage's `generate`: {instead}.")
    check_values({name: getattr(settings, name, None) for name in NUMBERS})


def check_values(given: Mapping[str, Any]) -> None:
    """Refuse values that are no settings: before transformers shows them, and (the numbers) out of their range.

    Raises:
        ValueError: it names the setting, and says what it must be.
    """
    for name, value in given.items():
        if not isinstance(value, Number | str | list | tuple | dict | set | None) and not hasattr(value, "item"):
            raise ValueError(f"`{name}` must be a number, a text or a list of them, got {shown(value)}.")
    for names, holds, needed in (
        (SHARES, lambda value: 0 < value <= 1, "a number in (0, 1]"),
        (SHARES_FROM_ZERO, lambda value: 0 <= value <= 1, "a number in [0, 1]"),
        (POSITIVE, lambda value: value > 0, "a number above 0"),
        (("top_k",), lambda value: value >= 0 and value == int(value), "a whole number from 0 (all) on"),
    ):
        for name in names:
            value = given.get(name)
            if value is None:
                continue
            if not holds(as_number(f"`{name}`", value, needed)):
                raise ValueError(f"`{name}` must be {needed}, got {shown(value)}.")
