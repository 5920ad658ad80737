"""This side of the comparison with the original: start its process, convert its weights, extrapolate its loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import torch

from open_musiclm.pipelines.windows import plan_windows, time_grid, to_fraction

from .models import STAGES

GRID = time_grid([50.0, 75.0])


def job(stage: str, size: str, path: str, task: str, device: torch.device, **settings) -> dict:
    """What original_loop.py is asked to do."""
    config = STAGES[stage][0].from_preset(size)
    return {
        "path": str(Path(path).resolve()),
        "task": task,
        "streams": [(stream.codebook_size, stream.num_codebooks) for stream in config.token_streams],
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "seed": 0,
        "device": str(device),
        "num_threads": torch.get_num_threads(),
        "repeats": 3,
        **settings,
    }


def ask(request: dict, script_name: str = "original_loop.py"):
    """Run original_loop.py (or another script); its result."""
    script = Path(__file__).with_name(script_name)
    environment = {**os.environ, "OMP_NUM_THREADS": str(request["num_threads"])}
    outcome = subprocess.run(
        [sys.executable, str(script), json.dumps(request)], capture_output=True, text=True, env=environment
    )
    lines = [line for line in outcome.stdout.splitlines() if line.startswith("RESULT ")]
    if outcome.returncode or not lines:
        raise RuntimeError(f"the original's code failed:\n{outcome.stderr[-2000:]}")
    return json.loads(lines[0].removeprefix("RESULT "))


def converted_stage(stage: str, size: str, saved: Path):
    """The saved weights in this package's model, through the converter's tables, and how far its logits are off."""
    from open_musiclm.conversion.name_table import apply_name_table, meta_shapes
    from open_musiclm.conversion.stage_names import stage_rows

    config_class, model_class = STAGES[stage]
    config = config_class.from_preset(size)
    sizes = {
        "depth": config.num_hidden_layers,
        "use_conv_ff": True,
        "use_absolute_position_embeddings": False,
        "relative_position_bias_type": "continuous",
    }
    rows = stage_rows(sizes, tuple(stream.name for stream in config.token_streams))
    tensors = torch.load(saved, weights_only=True, map_location="cpu")
    model = model_class(config)
    model.load_state_dict(apply_name_table(tensors, rows, meta_shapes(model_class, config), saved))
    model.eval()
    check = torch.load(f"{saved}.check", weights_only=True, map_location="cpu")
    ids = {s.argument: each for s, each in zip(config.token_streams, check["token_ids"], strict=True)}
    with torch.no_grad():
        logits = model(**ids, append_condition_eos=False).logits
    return model, float((logits - check["logits"]).abs().max() / check["logits"].std())


def stream_lengths(stage: str, num_predicted: int) -> list[int]:
    """Tokens of each stream when the loop has `num_predicted` tokens, EOS of the conditioning streams included."""
    config = STAGES[stage][0]()
    lengths = []
    for stream in config.token_streams[:-1]:
        frames = 1 if stream.frame_rate is None else int(config.window_in_s * stream.frame_rate)
        lengths.append((frames - stream.num_edge_frames) * stream.num_codebooks + 1)
    return [*lengths, num_predicted]


def predicted_steps(stage: str, duration_in_s: float) -> list[range]:
    """For each window of a piece: the numbers of predicted tokens before each step."""
    config = STAGES[stage][0]()
    stream = config.predicted_stream
    windows = plan_windows(
        Fraction(duration_in_s) // GRID * GRID,
        to_fraction(config.window_in_s),
        to_fraction(config.window_stride_in_s),
        GRID,
    )
    steps, made = [], 0
    for window in windows:
        frames = window.frames(stream.frame_rate, stream.num_edge_frames)
        known = max(made - frames.start, 0) if config.window_stride_in_s < config.window_in_s else 0
        count = (frames.stop - frames.start) * stream.num_codebooks
        steps.append(range(known * stream.num_codebooks, count))
        made = frames.stop
    return steps


def probe_lengths(stage: str, count: int = 4) -> list[int]:
    """Numbers of predicted tokens at which a step is timed: from none to a whole window."""
    config = STAGES[stage][0]()
    stream = config.predicted_stream
    longest = (int(config.window_in_s * stream.frame_rate) - stream.num_edge_frames) * stream.num_codebooks
    return [round(longest * index / (count - 1)) for index in range(count)]


def loop_seconds(stage: str, duration_in_s: float, probes: list[int], seconds: list[float]) -> float:
    """The original's time for a piece: the sum over its steps of a piecewise linear fit through measured ones."""
    total = 0.0
    for steps in predicted_steps(stage, duration_in_s):
        for made in steps:
            upper = next(index for index in range(1, len(probes)) if made <= probes[index])
            share = (made - probes[upper - 1]) / (probes[upper] - probes[upper - 1])
            total += seconds[upper - 1] + share * (seconds[upper] - seconds[upper - 1])
    return total
