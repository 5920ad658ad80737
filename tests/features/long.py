"""Long pieces: joints of windows are no louder than elsewhere."""

import numpy as np

from open_musiclm.pipelines.seams import seam_measure

from .rows import Row, generators


def run(pipe):
    rate = pipe.sampling_rate
    piece = pipe("a piano melody with drums", audio_length_in_s=60.0, generator=generators(1)).audios[0].mean(axis=0)
    first = next(iter(pipe.chain.stages.values())).config
    joints = np.arange(first.window_in_s, 58.0, first.window_stride_in_s)
    at = [seam_measure(piece, round(joint * rate), rate) for joint in joints]
    between = [seam_measure(piece, round((joint + first.window_stride_in_s / 2) * rate), rate) for joint in joints]
    rows = []
    for name, what in (("level_in_db", "level"), ("spectrum_in_db", "spectrum")):
        rows.append(
            Row(
                "long piece",
                f"change of {what} where windows join, against between them",
                float(np.median([m[name] for m in at])),
                float(np.median([m[name] for m in between])) * 1.5,
                "dB",
                False,
            )
        )
    return rows
