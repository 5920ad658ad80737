"""Continuation, editing, loops, remaking: samples that must stay, joints against plain cuts, chroma that is kept."""

import numpy as np

from open_musiclm.evaluation.metrics.chroma import chroma_agreement
from open_musiclm.pipelines.mixtures import Recording
from open_musiclm.pipelines.seams import seam_measure

from .rows import Row, generators


def run(pipe):
    rate, rows = pipe.sampling_rate, []
    song = pipe("a piano melody with drums", audio_length_in_s=12.0, generator=generators(1, 3)).audios[0]
    other = pipe("a quiet flute", audio_length_in_s=12.0, generator=generators(1, 4)).audios[0]
    recording = Recording(song, rate)

    joint = 6 * rate
    longer = pipe.continue_audio(Recording(song[:, :joint], rate), 6.0, generator=generators(1)).audios[0]
    same = np.mean(longer[:, :joint] == song[:, :joint])
    cut = np.concatenate([song[:, :joint], other[:, joint:]], axis=1)
    click = [seam_measure(a.mean(axis=0), joint, rate) for a in (longer, cut)]
    rows.append(Row("continuation", "given samples that stay as they are", 100 * same, 0.0, "%"))
    rows.append(
        Row(
            "continuation",
            "bend at the joint over the 99.9th percentile elsewhere, against a cut",
            click[0]["click"],
            click[1]["click"],
            "×",
            higher_is_better=False,
        )
    )
    rows.append(
        Row(
            "continuation",
            "change of the spectrum over the joint, against a cut",
            click[0]["spectrum_in_db"],
            click[1]["spectrum_in_db"],
            "dB",
            higher_is_better=False,
        )
    )

    edited = pipe.edit_audio(recording, 5.0, 7.0, generator=generators(4), num_candidates=4)
    outside = np.concatenate(
        [
            edited.audios[0][:, : 5 * rate] == song[:, : 5 * rate],
            edited.audios[0][:, 7 * rate :] == song[:, 7 * rate :],
        ],
        axis=1,
    )
    rows.append(Row("editing", "samples outside the region that stay as they are", 100 * outside.mean(), 0.0, "%"))
    pasted = song.copy()
    pasted[:, 5 * rate : 7 * rate] = other[:, 5 * rate : 7 * rate]
    seams = [
        np.mean([seam_measure(a.mean(axis=0), place * rate, rate)["click"] for place in (5, 7)])
        for a in (edited.audios[0], pasted)
    ]
    rows.append(Row("editing", "bend at both seams, against a paste", *seams, "×", higher_is_better=False))

    turns = []
    for looped in (True, False):
        audios = pipe(
            "drums", audio_length_in_s=8.0, loop=looped, num_waveforms_per_prompt=4, generator=generators(4)
        ).audios
        turns.append(
            np.mean([seam_measure(np.tile(a.mean(axis=0), 2), a.shape[-1], rate)["spectrum_in_db"] for a in audios])
        )
    rows.append(Row("loop", "change of the spectrum where it begins again, against no loop", *turns, "dB", False))

    remade = pipe.remake_audio(recording, prompt="a loud organ", generator=generators(1))[0].mean(axis=0)
    fresh = pipe("a loud organ", audio_length_in_s=12.0, generator=generators(1)).audios[0].mean(axis=0)
    whole = song.mean(axis=0)
    kept = [100 * chroma_agreement(a[: len(whole)], whole[: len(a)], rate) for a in (remade, fresh)]
    rows.append(Row("structure kept", "chroma of the recording in another sound, against a new piece", *kept, "%"))
    last = next(reversed(pipe.chain.decoded))
    first = pipe.chain.decoded[0]
    if first is not last:
        finished = pipe.remake_audio(recording, first.name, generator=generators(1))[0].mean(axis=0)
        kept = [100 * chroma_agreement(a[: len(whole)], whole[: len(a)], rate) for a in (finished, fresh)]
        rows.append(Row("reconstruction", f"chroma of the recording from its {first.name} tokens", *kept, "%"))
    return rows
