"""Does the semantic stage repeat its training data? The test of MusicLM (Agostinelli et al. 2023, section 6.4).

For an example of the training set the model is given its CLAP tokens and its first T semantic tokens, and continues
greedily with 125 more (5 s at MusicLM's 25 Hz). An *exact* match has all of them equal to the example's own. An
*approximate* match has a histogram of tokens that can be carried to the example's own at a cost below a threshold; the
threshold is set on pairs that are no match, made by permuting the examples, so that at most a chosen share of those
would pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from ..metrics.transport import histogram_transport_cost

__all__ = ["MemorizationResult", "TokenExample", "calibrate_threshold", "memorization_test"]

PROMPT_LENGTHS = (0, 25, 50, 100, 150, 200, 250)
NUM_CONTINUATION_TOKENS = 125
FALSE_POSITIVE_RATE = 1e-4  # "less than 0.01 % false positive approximate matches"


@dataclass(frozen=True)
class TokenExample:
    """One example of a token dataset: `clap_token_ids` (Q,), `semantic_token_ids` (frames,)."""

    name: str
    clap_token_ids: np.ndarray
    semantic_token_ids: np.ndarray


@dataclass(frozen=True)
class MemorizationResult:
    """Matches for one prompt length.

    Attributes:
        prompt_length: Semantic tokens the model was given.
        exact_share, approximate_share: Share of examples that match; exact matches are approximate ones too.
        threshold: Transport cost below which a continuation counts as an approximate match.
        false_positive_rate: Share of the negative pairs below the threshold.
        costs: (num_examples,) transport cost of each continuation to its own target.
    """

    prompt_length: int
    num_examples: int
    exact_share: float
    approximate_share: float
    threshold: float
    false_positive_rate: float
    num_negatives: int
    costs: tuple[float, ...]
    exact_examples: tuple[str, ...]
    approximate_examples: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def memorization_test(
    continue_greedily: Callable[[np.ndarray, np.ndarray, int], np.ndarray],
    examples: Sequence[TokenExample],
    centroids: np.ndarray,
    rng: np.random.Generator,
    prompt_lengths: Sequence[int] = PROMPT_LENGTHS,
    num_tokens: int = NUM_CONTINUATION_TOKENS,
    num_negatives: int = 10_000,
    false_positive_rate: float = FALSE_POSITIVE_RATE,
    batch_size: int = 16,
    relative_regularization: float = 0.05,
) -> list[MemorizationResult]:
    """Runs the test for each prompt length.

    Args:
        continue_greedily: Takes CLAP tokens (B, Q), a prompt (B, T) and a number of tokens N; returns (B, N).
        examples: Each with at least `max(prompt_lengths) + num_tokens` semantic tokens; give more than one.
        centroids: (codebook_size, D) of the semantic quantizer that made the tokens.
        num_negatives: Pairs of a continuation and another example's target, over all prompt lengths together; fewer if
            there are not so many.
        false_positive_rate: Share of the negatives that may lie below the threshold.

    Raises:
        ValueError: If fewer than two examples are given, or one is too short.
    """
    needed = max(prompt_lengths) + num_tokens
    short = [example.name for example in examples if len(example.semantic_token_ids) < needed]
    if short:
        raise ValueError(
            f"{len(short)} of {len(examples)} examples have fewer than {needed} semantic tokens (the first: {short[0]}); "
            f"leave them out, or ask for shorter prompts than {max(prompt_lengths)}."
        )
    if len(examples) < 2:
        raise ValueError(f"{len(examples)} examples; at least 2 are needed, to have pairs that do not match.")
    clap = np.stack([example.clap_token_ids for example in examples])
    semantic = np.stack([example.semantic_token_ids[:needed] for example in examples])

    def cost(ours: np.ndarray, theirs: np.ndarray) -> float:
        return histogram_transport_cost(ours, theirs, centroids, relative_regularization)

    continuations, targets = {}, {}
    for length in tqdm(prompt_lengths, desc="continue", unit="length", leave=False, disable=None):
        continuations[length] = np.concatenate(
            [
                continue_greedily(clap[i : i + batch_size], semantic[i : i + batch_size, :length], num_tokens)
                for i in range(0, len(examples), batch_size)
            ]
        )
        targets[length] = semantic[:, length : length + num_tokens]

    others = len(examples) - 1
    num_pairs = min(-(-num_negatives // len(prompt_lengths)), len(examples) * others)
    found: list[float] = []
    for length in tqdm(prompt_lengths, desc="negative pairs", unit="length", leave=False, disable=None):
        for pair in rng.choice(len(examples) * others, size=num_pairs, replace=False).tolist():
            ours, theirs = divmod(pair, others)
            found.append(cost(continuations[length][ours], targets[length][theirs + (theirs >= ours)]))
    negatives = np.array(found)
    threshold, warnings = calibrate_threshold(negatives, false_positive_rate)

    results = []
    for length in prompt_lengths:
        ours, theirs = continuations[length], targets[length]
        costs = np.array([cost(a, b) for a, b in zip(ours, theirs, strict=True)])
        exact = (ours == theirs).all(axis=1)
        approximate = exact | (costs < threshold)
        results.append(
            MemorizationResult(
                prompt_length=length,
                num_examples=len(examples),
                exact_share=float(exact.mean()),
                approximate_share=float(approximate.mean()),
                threshold=threshold,
                false_positive_rate=float((negatives < threshold).mean()),
                num_negatives=len(negatives),
                costs=tuple(costs.tolist()),
                exact_examples=tuple(e.name for e, hit in zip(examples, exact, strict=True) if hit),
                approximate_examples=tuple(e.name for e, hit in zip(examples, approximate, strict=True) if hit),
                warnings=warnings,
            )
        )
    return results


def calibrate_threshold(negative_costs, false_positive_rate: float) -> tuple[float, tuple[str, ...]]:
    """The largest threshold below which at most `false_positive_rate` of the negative pairs lie.

    Returns:
        The threshold (a cost matches if it is *below*), and warnings: with fewer than 1 / rate negatives the rate
        cannot be told from 0, and the threshold is the smallest negative cost.
    """
    costs = np.sort(np.asarray(negative_costs, dtype=np.float64))
    if costs.size == 0:
        raise ValueError("no negative pairs were given.")
    warnings: tuple[str, ...] = ()
    if costs.size * false_positive_rate < 1:
        warnings = (
            f"{costs.size} negative pairs cannot show a rate of {false_positive_rate:g}; at least "
            f"{int(np.ceil(1 / false_positive_rate))} are needed. The threshold is their smallest cost.",
        )
    return float(costs[int(costs.size * false_positive_rate)]), warnings
