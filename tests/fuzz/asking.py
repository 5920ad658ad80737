"""A tiny pipeline that can be asked for everything, with short windows: a call makes little more than it is asked for."""

import numpy as np
import torch
from tiny import tiny_pipeline, tiny_stage

from open_musiclm.cli import main
from open_musiclm.tokenizers.attributes import find_attribute

#: what attributes are asked for, in Python and (the texts) by command
REQUESTS = ("120", "120 bpm", "nan bpm", "1e999", "A minor", "H", "A" * 5000, "C##", "folk", "folk+techno", "a+b+c", "+", "la la", "\u0301", "ﬁ", "ß" * 9, (1e9, 0), (5, 1), (5, 9),
            [(0, 1, 60)], [(0, 1, 128)], [(0, 1e308, 60)], [(0, 10**400, 60)], [(0, 1, "la")], [(0, 2, "a"), (1, 3, "b")], [(0, 1e-300, "a")],
            (np.sin(np.arange(9000) / 9), 8000), (np.zeros(100), 8000), (np.ones(1), 8000), (np.ones((9, 0)), 8000), (np.ones(100), 10**12),
            (np.ones(100), 0), (np.ones(100), -8000), (torch.ones(100), 8000), (np.array(["a"]), 8000))  # fmt: skip


def asking_pipeline():
    """Stages trained with dropout, the first of which reads what a piece can be asked for."""
    pipeline = tiny_pipeline(1)
    asked = [find_attribute(name).default_stream().to_dict() for name in ("tempo", "melody", "key", "lyrics")]
    asked.append(find_attribute("timing").default_stream(frame_rate=12.5).to_dict())
    asked.append(find_attribute("genre").default_stream(vocabulary=["folk", "techno"]).to_dict())
    for stage, windows in (("semantic", (0.96, 0.48)), ("coarse", (0.48, 0.24)), ("fine", (0.24, 0.24))):
        *conditions, last = (stream.to_dict() for stream in getattr(pipeline, f"{stage}_model").streams)
        streams = [*conditions, *(asked if stage == "semantic" else ()), last]
        settings = {"window_in_s": windows[0], "window_stride_in_s": windows[1], "condition_dropout": 0.2}
        setattr(pipeline, f"{stage}_model", tiny_stage(stage, streams, 1, **settings))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_command(arguments, capsys) -> tuple[int, str]:
    """The exit code of a command and what it said: no traceback, and one short line where it refuses."""
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr().err
    assert code in (0, 1, 2), code
    assert "Traceback" not in said
    if code == 1:
        assert said.count("\n") == 1, said[:500]
        assert len(said) < 2000, said[:500]
    return code, said


def check_nothing_left(folder, code, said, *kept) -> None:
    """What a command that ended with `code` and these words has left in a folder beside `kept` is removed; an
    `AssertionError` if it was refused and there is something."""
    for path in folder.iterdir():
        assert code == 0 or path in kept, f"{path.name} is left, {said}"
        path.unlink()
