"""Continuation, editing, loops, remaking: samples that must stay, joints against plain cuts, chroma that is kept."""

import numpy as np

from open_musiclm.evaluation.metrics.chroma import chroma_agreement
from open_musiclm.pipelines.mixtures import Recording
from open_musiclm.pipelines.seams import seam_measure

from .hearing import REAL_SEED, real_clip
from .rows import Row, generators, made, paired, standard_error

NUM_RECORDINGS = 8
NUM_LOOPS = 6
NUM_REGIONS = 20


def run(pipe):
    yield from _continued(pipe)
    yield from _edited(pipe)
    yield from _looped(pipe)
    yield from _what_follows(pipe)
    yield from _rebuilt(pipe)


def _recordings(pipe, number):
    """Real clips of held notes, (samples,) each, in which a cut is heard at once."""
    instruments = ("organ", "strings", "brass", "synth")
    return [
        real_clip(
            REAL_SEED + i, 10.0, pipe.sampling_rate, drums="none", instrument=instruments[i % 4], artist="Aurora"
        )[0]
        for i in range(number)
    ]


def _continued(pipe):
    rate, joint = pipe.sampling_rate, 6 * pipe.sampling_rate
    clips, seams, same = _recordings(pipe, NUM_RECORDINGS), {"ours": [], "cut": [], "uncut": []}, []
    for clip, other in zip(clips, clips[1:] + clips[:1], strict=True):
        longer = pipe.continue_audio(Recording(clip[:joint], rate), 4.0, generator=generators(1)).audios[0]
        same.append(np.mean(longer[:, :joint] == clip[:joint]))
        cut = np.concatenate([clip[:joint], other[joint:]])
        for name, audio in (("ours", longer.mean(axis=0)), ("cut", cut), ("uncut", clip)):
            seams[name].append(seam_measure(audio, joint, rate))
    yield Row("continuation", "given samples that stay as they are", 100 * float(np.mean(same)), 0.0, "%")
    yield from _smoother("continuation", "at the joint", "a cut to another recording", seams)


def _smoother(feature, where, against, seams):
    """Rows of seam measures: the bend of `seams["ours"]` against `seams["cut"]`, level and spectrum against elsewhere; of
    the recordings as they were, `seams["uncut"]`, as what could be had."""

    def measured(name, what):
        return np.array([seam[what] for seam in seams[name]])

    def real(what):
        return float(measured("uncut", what).mean()) if "uncut" in seams else None

    bends = [float(measured(name, "click").mean()) for name in ("ours", "cut")]
    what = f"largest bend {where} over the 99.9th percentile elsewhere, against {against}"
    yield Row(feature, what, *bends, "×", False, real=real("click"))
    for name in ("level", "spectrum"):
        at, elsewhere = (measured("ours", f"{name}{part}_in_db") for part in ("", "_elsewhere"))
        yield Row(
            feature,
            f"change of the {name} {where}, against elsewhere in it",
            float(at.mean()),
            float(elsewhere.mean()),
            "dB",
            False,
            margin=-2 * standard_error(at - elsewhere),  # no larger, but for what chance makes of so few
            real=real(f"{name}_in_db"),
        )


def _edited(pipe):
    rate, start, stop = pipe.sampling_rate, 4.0, 6.0
    clips, seams, same = _recordings(pipe, NUM_RECORDINGS), {"ours": [], "cut": [], "uncut": []}, []
    region = slice(round(start * rate), round(stop * rate))
    for clip, other in zip(clips, clips[1:] + clips[:1], strict=True):
        edited = pipe.edit_audio(Recording(clip, rate), start, stop, generator=generators(4)).audios[0]
        outside = np.ones(len(clip), dtype=bool)
        outside[region] = False
        same.append(np.mean((edited == clip)[:, outside]))
        pasted = clip.copy()
        pasted[region] = other[region]
        for name, audio in (("ours", edited.mean(axis=0)), ("cut", pasted), ("uncut", clip)):
            seams[name] += [seam_measure(audio, place, rate) for place in (region.start, region.stop)]
    yield Row("editing", "samples outside the region that stay as they are", 100 * float(np.mean(same)), 0.0, "%")
    yield from _smoother("editing", "at both seams", "a paste of another recording", seams)


def _looped(pipe):
    """Against what a loop without the feature is: as long a part of a piece, cut out of its middle."""
    prompts, seconds, rate = ("an organ", "strings", "a piano melody with drums"), 8.0, pipe.sampling_rate
    loops = made(pipe, prompts, seconds, NUM_LOOPS, loop=True)
    cuts = [audio[rate:-rate] for audio in made(pipe, prompts, seconds + 2.0, NUM_LOOPS)]
    seams = {
        name: [seam_measure(np.tile(audio, 2), len(audio), rate) for audio in some]
        for name, some in (("ours", loops), ("cut", cuts))
    }
    yield from _smoother("loop", "where it begins again", "parts cut out of pieces", seams)
    for what in ("level", "spectrum"):
        ours, cut = (np.array([seam[f"{what}_in_db"] for seam in seams[name]]) for name in ("ours", "cut"))
        margin = 2 * float(np.hypot(standard_error(ours), standard_error(cut)))
        said = f"change of the {what} where it begins again, against parts cut out of pieces"
        yield Row("loop", said, float(ours.mean()), float(cut.mean()), "dB", False, margin=margin)


def _what_follows(pipe):
    """A region made anew before what follows it: with the stage that reads it shown it, and of one candidate, so that
    nothing else looks ahead; against the same seeds that were shown nothing."""
    if not any(stream.context == "after" for stream in pipe.chain.streams.values()):
        return
    rate, start, stop = pipe.sampling_rate, 3.0, 4.0
    found: dict[str, list[float]] = {"shown": [], "not": []}
    for clip in _recordings(pipe, NUM_REGIONS):
        prompt = Recording(clip, rate)
        mended = pipe.edit_audio(
            Recording(clip, rate), start, stop, "vary", prompt=prompt, num_candidates=1, generator=generators(1)
        )
        # what is kept of the region is the same; what follows is there no more
        begun = clip[: round(stop * rate)]
        alone = pipe.edit_audio(
            Recording(begun, rate), start, stop, "vary", prompt=prompt, num_candidates=1, generator=generators(1)
        )
        for name, edited in (("shown", mended), ("not", alone)):
            region = edited.audios[0].mean(axis=0)[: round(stop * rate)]
            whole = np.concatenate([region, clip[len(region) :]])
            # away from the fade, which is the same for both
            found[name].append(change_over(whole, round(stop * rate), rate))
    shown, alone = (np.array(found[name]) for name in ("shown", "not"))
    what = "change of the spectrum to what follows, shown it, against not"
    yield paired("editing", what, shown, alone, "dB", higher_is_better=False)


def change_over(audio, joint, rate, width_in_s=0.15, apart_in_s=0.05):
    """Distance in dB of the log spectra before and behind a joint, the fade between them left out."""
    apart, width = round(apart_in_s * rate), round(width_in_s * rate)
    parts = [audio[joint - apart - width : joint - apart], audio[joint + apart : joint + apart + width]]
    edges = np.unique(np.geomspace(3, width // 2, 25).astype(int))
    power = [np.add.reduceat(np.abs(np.fft.rfft(part * np.hanning(width))) ** 2, edges[:-1]) for part in parts]
    floor = 1e-6 * max(part.max() for part in power)
    return float(np.sqrt(np.mean((10 * np.log10((power[0] + floor) / (power[1] + floor))) ** 2)))


def _rebuilt(pipe):
    """Chroma of real clips that is kept when the stages make the rest of some tokens anew, against another piece."""
    rate = pipe.sampling_rate
    clips = [real_clip(REAL_SEED + seed, 8.0, rate, drums="none")[0] for seed in range(4)]
    first, decoded = next(iter(pipe.chain.makers)), [stream.name for stream in pipe.chain.decoded]
    kept = {first: "a loud organ"} | ({decoded[0]: None} if len(decoded) > 1 else {})
    for name, prompt in kept.items():
        remade = [
            pipe.remake_audio(Recording(clip, rate), name, prompt=prompt, generator=generators(1))[0].mean(axis=0)
            for clip in clips
        ]

        def agree(sound, clip):
            length = min(len(sound), len(clip))
            return 100 * chroma_agreement(sound[:length], clip[:length], rate)

        own = np.array([agree(sound, clip) for sound, clip in zip(remade, clips, strict=True)])
        other = np.array([agree(remade[i], clips[j]) for i in range(4) for j in range(4) if i != j])
        what = "in another sound" if prompt else "with the rest made anew"
        yield Row(
            "reconstruction",
            f"chroma of a real clip from its {name} tokens, {what}, against another clip's",
            float(own.mean()),
            float(other.mean()),
            "%",
            margin=2 * standard_error(other),
        )
