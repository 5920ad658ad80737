"""Guidance, stories, references, mixtures: levels follow what was asked for."""

import numpy as np

from open_musiclm.pipelines.mixtures import Mixture, Recording

from .rows import Row, generators, level

LOUD, QUIET = "a loud rock song with drums", "a quiet calm melody without drums"


def _contrast(pipe, **asked):
    levels = [
        np.mean(
            [
                level(a)
                for a in pipe(
                    p, audio_length_in_s=6.0, num_waveforms_per_prompt=4, generator=generators(4), **asked
                ).audios
            ]
        )
        for p in (LOUD, QUIET)
    ]
    return levels[0] - levels[1]


def run(pipe):
    rows = []
    guided = any(stage.config.condition_dropout for stage in pipe.chain.stages.values())
    if guided:
        rows.append(
            Row(
                "guidance",
                "loud over quiet prompt, scale 3 against 1",
                _contrast(pipe, guidance_scale=3.0),
                _contrast(pipe, guidance_scale=1.0),
                "dB",
            )
        )
    story = pipe([(0, QUIET), (10, LOUD), (20, QUIET)], audio_length_in_s=30.0, generator=generators(1)).audios[0]
    rate = pipe.sampling_rate
    parts = [level(story[:, (start + 2) * rate : (start + 10) * rate]) for start in (0, 10, 20)]
    flat = pipe(QUIET, audio_length_in_s=30.0, generator=generators(1)).audios[0]
    plain = [level(flat[:, (start + 2) * rate : (start + 10) * rate]) for start in (0, 10, 20)]
    rows.append(
        Row(
            "story",
            "loud middle part over the quiet ones, against one prompt",
            parts[1] - (parts[0] + parts[2]) / 2,
            plain[1] - (plain[0] + plain[2]) / 2,
            "dB",
        )
    )
    made = {p: pipe(p, audio_length_in_s=10.0, generator=generators(1, 5)).audios[0] for p in (LOUD, QUIET)}
    by_reference = [
        np.mean(
            [
                level(a)
                for a in pipe(
                    reference_audio=Recording(made[p], rate),
                    audio_length_in_s=6.0,
                    num_waveforms_per_prompt=4,
                    generator=generators(4),
                ).audios
            ]
        )
        for p in (LOUD, QUIET)
    ]
    rows.append(
        Row(
            "reference audio",
            "like a loud recording over like a quiet one",
            by_reference[0] - by_reference[1],
            0.0,
            "dB",
        )
    )
    mixed = [
        np.mean(
            [
                level(a)
                for a in pipe(
                    Mixture((LOUD, QUIET), (w, 1 - w)),
                    audio_length_in_s=6.0,
                    num_waveforms_per_prompt=4,
                    generator=generators(4),
                ).audios
            ]
        )
        for w in (0.8, 0.2)
    ]
    rows.append(Row("mixture", "0.8 loud + 0.2 quiet over 0.2 loud + 0.8 quiet", mixed[0] - mixed[1], 0.0, "dB"))
    return rows
