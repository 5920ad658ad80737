"""Continuation, editing, loops, remaking: samples that must stay, joints against plain cuts, chroma that is kept."""

import numpy as np

from open_musiclm.evaluation.metrics.chroma import chroma_agreement
from open_musiclm.pipelines.mixtures import Recording
from open_musiclm.pipelines.seams import seam_measure

from .hearing import REAL_SEED, real_clip
from .rows import Row, generators, standard_error

NUM_REGIONS = 10


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
    return rows + _what_follows(pipe) + _rebuilt(pipe)


def _what_follows(pipe):
    """A region made anew before what follows it: with the stage that reads it shown it, and of one candidate, so that
    nothing else looks ahead; against the same seeds that were shown nothing."""
    if not any(stream.context == "after" for stream in pipe.chain.streams.values()):
        return []
    rate, start, stop = pipe.sampling_rate, 3.0, 4.0
    found = {"shown": [], "not": []}
    for seed in range(NUM_REGIONS):
        clip, _ = real_clip(REAL_SEED + seed, 8.0, rate)
        mended = pipe.edit_audio(Recording(clip, rate), start, stop, "vary", num_candidates=1, generator=generators(1))
        # what is kept of the region is the same; what follows is there no more
        begun = clip[: round(stop * rate)]
        alone = pipe.edit_audio(Recording(begun, rate), start, stop, "vary", num_candidates=1, generator=generators(1))
        for name, made in (("shown", mended), ("not", alone)):
            region = made.audios[0].mean(axis=0)[: round(stop * rate)]
            whole = np.concatenate([region, clip[len(region) :]])
            # away from the fade, which is the same for both
            found[name].append(_change_over(whole, round(stop * rate), rate))
    shown, alone = (np.array(found[name]) for name in ("shown", "not"))
    return [
        Row(
            "editing",
            "change of the spectrum to what follows, shown it, against not",
            float(shown.mean()),
            float(alone.mean()),
            "dB",
            False,
            margin=2 * standard_error(alone - shown),
        )
    ]


def _change_over(audio, joint, rate, width_in_s=0.15, apart_in_s=0.05):
    """Distance in dB of the log spectra before and behind a joint, the fade between them left out."""
    apart, width = round(apart_in_s * rate), round(width_in_s * rate)
    parts = [audio[joint - apart - width : joint - apart], audio[joint + apart : joint + apart + width]]
    edges = np.unique(np.geomspace(3, width // 2, 25).astype(int))
    power = [np.add.reduceat(np.abs(np.fft.rfft(part * np.hanning(width))) ** 2, edges[:-1]) for part in parts]
    floor = 1e-6 * max(part.max() for part in power)
    return float(np.sqrt(np.mean((10 * np.log10((power[0] + floor) / (power[1] + floor))) ** 2)))


def _rebuilt(pipe):
    """Chroma of real clips that is kept when the stages make the rest of some tokens anew, against another piece."""
    rate, rows = pipe.sampling_rate, []
    clips = [real_clip(REAL_SEED + seed, 8.0, rate, drums="none")[0] for seed in range(4)]
    first, decoded = next(iter(pipe.chain.makers)), [stream.name for stream in pipe.chain.decoded]
    kept = {first: "a loud organ"} | ({decoded[0]: None} if len(decoded) > 1 else {})
    for name, prompt in kept.items():
        made = [
            pipe.remake_audio(Recording(clip, rate), name, prompt=prompt, generator=generators(1))[0].mean(axis=0)
            for clip in clips
        ]

        def agree(sound, clip):
            length = min(len(sound), len(clip))
            return 100 * chroma_agreement(sound[:length], clip[:length], rate)

        own = np.array([agree(sound, clip) for sound, clip in zip(made, clips, strict=True)])
        other = np.array([agree(made[i], clips[j]) for i in range(4) for j in range(4) if i != j])
        what = "in another sound" if prompt else "with the rest made anew"
        rows.append(
            Row(
                "reconstruction",
                f"chroma of a real clip from its {name} tokens, {what}, against another clip's",
                float(own.mean()),
                float(other.mean()),
                "%",
                margin=2 * standard_error(other),
            )
        )
    return rows
