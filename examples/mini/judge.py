"""Does the model do what it is told, in the ears of others?

    pip install "open-musiclm[judge]"
    pip install --no-deps basic-pitch      # its network runs on onnxruntime; its own pins would bring TensorFlow
    python examples/mini/judge.py --prompts 60

makes music for held-out prompts, has it heard by judges that never saw the model (librosa, essentia, basic-pitch,
swift-f0; classifiers on what they say are fitted on other real clips of the corpus), and prints a table:

    chance | real clips | codec only | real coarse | real semantic | the model | target

The columns between show where it is lost: each puts a real clip's tokens in place of those generated. Each judge is
first checked on real clips; one that fails there is left out, by name. The prompts are the same for every version.

    --model FOLDER            a pipeline (default: the one in the box)
    --codec FOLDER            a codec alone: columns `real clips` and `codec only`
    --folder WAVS --table CSV any music: WAVs named by the ids of a table with the columns id, prompt, drums, tempo,
                              mode, register, loudness, instrument, genre (empty: not asked for)
    --write-clips DIR         write the real clips and their table there and stop: pass them through whatever is to be
                              judged and give the results to --folder
    --picture FILE.png        eight spectrograms with their prompts
    --json FILE               all figures

The first run fits classifiers and trains a second CLAP for the score, which takes a quarter of an hour on two cores.
All that is kept in --work-dir, as is the music made, so that a stopped run goes on and a second one is short.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from itertools import islice
from pathlib import Path

LENGTH_IN_S = 10.0
FIT_SEED, REAL_SEED, REFERENCE_SEED = 1_000_003, 1_000_033, 1_000_037
NUM_FIT_CLIPS = 300


def fit_opinions(work: Path, workers: int, num_clips: int = NUM_FIT_CLIPS):
    """An opinion on each attribute, from real clips that no row has; kept for the next time."""
    import joblib
    from judges.attributes import ATTRIBUTES
    from judges.hearing import Clip, listen_to_all
    from judges.opinions import form_opinion
    from judges.prompts import truths

    known = list(islice(truths(FIT_SEED, LENGTH_IN_S), num_clips))
    clips = [Clip(seed=FIT_SEED, index=index, length_in_s=LENGTH_IN_S) for index, _ in known]
    path = work / f"opinions-{opinions_version(clips)}.joblib"
    if path.exists():
        return joblib.load(path)
    numbers = listen_to_all(clips, work / "heard", workers, "listen to clips to fit on")
    opinions = {name: form_opinion(name, numbers, [getattr(truth, name) for _, truth in known]) for name in ATTRIBUTES}
    joblib.dump(opinions, f"{path}.part")
    os.replace(f"{path}.part", path)
    return opinions


def opinions_version(clips) -> str:
    """Changes with what is heard, who hears it and how classifiers are fitted."""
    import hashlib

    import sklearn
    from judges.hearing import code_version

    parts = [
        code_version("judges/attributes", "judges/opinions"),
        sklearn.__version__,
        *(clip.key() for clip in clips),
    ]
    return hashlib.sha1(" ".join(parts).encode()).hexdigest()[:12]


def judge_clips(clips, prompts, opinions, work: Path, workers: int, title: str):
    """A [`Verdict`] on the clips of one row, Fréchet distance and CLAP score apart."""
    import numpy as np
    from judges.hearing import listen_to_all
    from judges.sound import mean_figures
    from judges.table import Verdict, count_right

    numbers = listen_to_all(clips, work / "heard", workers, f"listen to {title}")
    verdict = Verdict()
    for name, opinion in opinions.items():
        verdict.right[name] = count_right(opinion, opinion(numbers), prompts)
    if "basic-pitch notes" in numbers[0]:
        notes = np.stack([n["basic-pitch notes"] for n in numbers])
        verdict.figures["notes found"] = float(np.median(notes[:, 0]))
        verdict.figures["their confidence"] = float(notes[:, 1].mean())
    verdict.figures |= mean_figures(clips)
    return verdict


def add_clap(verdicts: dict, rows: dict, prompts, clap) -> dict[str, float]:
    """Add CLAP score and Fréchet distance to the verdicts; returns how well the second CLAP knows real clips."""
    import numpy as np
    from judges.hearing import Clip
    from judges.prompts import truths
    from judges.second_clap import area_under_curve, embed, embed_prompts

    from open_musiclm.evaluation.metrics.frechet import Gaussian

    texts = embed_prompts(clap, [prompt.text for prompt in prompts])
    others = [i for i, _ in islice(truths(REFERENCE_SEED, LENGTH_IN_S), max(len(prompts), 100))]
    reference = Gaussian.of(embed(clap, [Clip(seed=REFERENCE_SEED, index=i, length_in_s=LENGTH_IN_S) for i in others]))
    known = {}
    for row, clips in rows.items():
        sounds = embed(clap, clips)
        similarities = texts @ sounds.T
        verdicts[row].figures["CLAP score"] = float(np.diagonal(similarities).mean())
        verdicts[row].figures["Fréchet distance"] = Gaussian.of(sounds).distance_to(reference)
        if row == "real":
            own = np.eye(len(prompts), dtype=bool)
            known = {
                "AUC of prompts to the real clips made for them": area_under_curve(similarities, own),
                "mean similarity of real clips to other prompts": float(similarities[~own].mean()),
            }
    return known


def rows_to_judge(arguments, prompts):
    """Make the music, or find it: row → clips."""
    from judges.handover import ROWS, fingerprint, make_row
    from judges.hearing import Clip
    from judges.prompts import clips_that_fit

    if arguments.folder:
        rows = {arguments.folder.name: [Clip(str(arguments.folder / f"{prompt.id}.wav")) for prompt in prompts]}
        missing = [clip.path for clip in rows[arguments.folder.name] if not Path(clip.path).exists()]
        if missing:
            raise ValueError(f"{len(missing)} clips of the table are not there, the first is {missing[0]!r}.")
        return rows
    indices = clips_that_fit(prompts, REAL_SEED, LENGTH_IN_S)
    real = [Clip(seed=REAL_SEED, index=index, length_in_s=LENGTH_IN_S) for index in indices]
    if arguments.write_clips:
        return {"real": make_row("real", "", prompts, real, arguments.write_clips, LENGTH_IN_S, arguments.workers)}
    source = str(arguments.codec or arguments.model)
    names = arguments.rows.split(",") if arguments.rows else ("real", "codec") if arguments.codec else ROWS
    if unknown := set(names) - set(ROWS):
        raise ValueError(f"No row is called {', '.join(sorted(unknown))}; the rows are {', '.join(ROWS)}.")
    rows = {}
    for name in names:
        if name == "real":
            rows[name] = real
            continue
        folder = arguments.work_dir / "made" / f"{fingerprint(source)}" / name
        try:
            rows[name] = make_row(name, source, prompts, real, folder, LENGTH_IN_S, arguments.workers)
        except (ValueError, KeyError, AttributeError) as error:
            if name == "model":
                raise
            print(f"{name}: left out, this pipeline cannot make it ({error})")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a pipeline's folder (default: the one in the box)")
    parser.add_argument("--codec", type=Path, help="a codec's folder: judge what it makes of real clips")
    parser.add_argument("--folder", type=Path, help="a folder of WAVs, named by the ids of the table")
    parser.add_argument("--table", type=Path, help="CSV of prompts (default: the 200 that are for all versions)")
    parser.add_argument("--prompts", type=int, default=200, help="use the first so many of the table; 60 is quick")
    parser.add_argument("--rows", help="some of real,codec,coarse,semantic,model (default: all)")
    parser.add_argument("--work-dir", type=Path, default=Path("work/judge"))
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument(
        "--write-clips", type=Path, metavar="DIR", help="write the real clips and their table, and stop"
    )
    parser.add_argument("--write-prompts", type=Path, metavar="CSV", help="write a table of new prompts, and stop")
    parser.add_argument("--no-clap", action="store_true", help="leave out CLAP score and Fréchet distance")
    parser.add_argument("--picture", type=Path, help="draw eight spectrograms of the last row here (PNG)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except ValueError as error:
        parser.error(str(error))
    except ImportError as error:
        parser.error(
            f"{error}. The judges are other people's packages; see the commands in --help for installing them."
        )


def run(arguments) -> None:
    from judges.prompts import TABLE, compose_prompts, read_table, write_table

    if arguments.write_prompts:
        write_table(arguments.write_prompts, compose_prompts(arguments.prompts, seed=0))
        return
    prompts = read_table(arguments.table or TABLE)[: arguments.prompts]
    if arguments.model is None and arguments.codec is None and not arguments.folder:
        from open_musiclm import mini_checkpoint

        arguments.model = Path(mini_checkpoint())
    rows = rows_to_judge(arguments, prompts)
    if arguments.write_clips:
        write_table(arguments.write_clips / "table.csv", prompts)
        return
    from judges.hearing import GROUPS, is_installed
    from judges.table import write_markdown

    if absent := [name for name in GROUPS if not is_installed(name)]:
        print(f"not installed, so not heard: {', '.join(absent)} (see --help)")
    opinions = fit_opinions(arguments.work_dir, arguments.workers)
    verdicts = {
        row: judge_clips(clips, prompts, opinions, arguments.work_dir, arguments.workers, row)
        for row, clips in rows.items()
    }
    known = {}
    if not arguments.no_clap:
        from judges.second_clap import second_clap

        known = add_clap(verdicts, rows, prompts, second_clap(arguments.work_dir, arguments.workers))
    print(write_markdown(verdicts, opinions, len(prompts)))
    for name, value in known.items():
        print(f"- second CLAP, {name}: {value:.2f}")
    if arguments.json:
        judged = {
            "prompts": len(prompts),
            "rows": {row: asdict(verdict) for row, verdict in verdicts.items()},
            "judges": {
                name: {"heard": list(o.classifiers), "accuracies": o.accuracies} for name, o in opinions.items()
            },
            "second CLAP": known,
        }
        arguments.json.write_text(json.dumps(judged, indent=2, ensure_ascii=False))
    if arguments.picture:
        from judges.picture import draw

        last = list(rows)[-1]
        draw(rows[last][:8], [prompt.text for prompt in prompts[:8]], arguments.picture)


if __name__ == "__main__":
    main()
