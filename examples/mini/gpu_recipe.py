"""The whole recipe on a machine with one GPU, in two calls of at most nine minutes:

    python examples/mini/gpu_recipe.py pack --output build/carried        # once, where this package is installed
    python examples/mini/gpu_recipe.py first  --carried build/carried --results $OUT     # on the GPU machine
    python examples/mini/gpu_recipe.py second --carried build/carried --results $OUT
    python examples/mini/gpu_recipe.py unpack --results $OUT --output src/open_musiclm/checkpoints/mini   # back home

`first` renders a corpus, trains codec, CLAP, semantic encoder and the second CLAP side by side, and fits codebooks;
`second` makes tokens, trains the stages side by side, puts the pipeline together, and prints what judges say that need no
package of their own (`judge.py` asks the rest). Trainings go by the clock, so a slower machine trains less and
nothing overruns. A call that was cut off, or lost its machine, is made again: what is in the work folder is kept, and if
that is gone, the results of the call before are laid out again, wherever `--previous` finds them.

On that machine: Python with torch, transformers and numpy, and a copy of this repository; what else is needed `pack`
carries (other people's packages as they are installed here; under 60 MB). Results are files of at most 15 MB.
`--tiny` rehearses it on a CPU in some minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from archive import extract_files

PART_SIZE = 15 << 20
MAX_PARTS = 8
CARRIED = ("diffusers",)  # with all that it needs, and torch, transformers and numpy do not bring
NUM_PROMPTS = 60


@dataclass(frozen=True)
class Step:
    """One process: what must be done before it, and how long its trainings may take, in seconds."""

    name: str
    needs: tuple[str, ...] = ()
    seconds: float = 0.0


#: of trainings, the seconds are of each; `judge` prints
FIRST = (
    Step("render"),
    Step("second_clap"),
    Step("clap", ("render",), 130),
    Step("semantic_encoder", ("render",), 270),
    Step("codec", ("render",), 280),
    Step("codebooks", ("clap", "semantic_encoder")),
)
SECOND = (
    Step("tokenize", ("codebooks", "codec")),
    Step("semantic_stage", ("codebooks", "codec"), 330),
    Step("coarse_stage", ("tokenize",), 220),
    Step("fine_stage", ("tokenize",), 200),
    Step("assemble", ("semantic_stage", "coarse_stage", "fine_stage")),
    Step("judge", ("assemble", "second_clap")),
)
CALLS = {"first": FIRST, "second": (*FIRST, *SECOND)}


def gpu_recipe():
    """The recipe with batches for a GPU; how many steps there are, the clock says."""
    from recipe import Recipe, Training

    endless = 1_000_000
    return replace(
        Recipe(),
        num_train_clips=4000,
        num_token_clips=8000,
        clap_text=Training(endless, 384, 1e-3),
        clap=Training(endless, 192, 1e-3),
        semantic=Training(endless, 96, 1.5e-3),
        codec=Training(endless, 64, 1.5e-3),
        num_short_windows=448,
        semantic_stage=Training(endless, 256, 1.5e-3),
        coarse_stage=Training(endless, 256, 2e-3),
        fine_stage=Training(endless, 256, 3e-3),
    )


# ------------------------------------------------------------------ one step


def take_step(step: Step, work_dir: Path, tiny: bool) -> None:
    """In this process. A step that is done leaves `NAME.done`."""
    from recipe import tiny_recipe
    from train_mini import WorkFolder
    from training_loop import time_limit

    recipe = tiny_recipe() if tiny else gpu_recipe()
    work = WorkFolder(work_dir, None, recipe)
    with time_limit(1.0 if tiny else step.seconds) if step.seconds else _no_limit():
        _function(step.name, tiny)(work, recipe)
    work.mark_done(step.name)


def _no_limit():
    from contextlib import nullcontext

    return nullcontext()


def _function(name: str, tiny: bool) -> Callable:
    """A step of train_mini.py, or one of those here."""
    import train_mini

    if name in train_mini.STEPS:
        return train_mini.STEPS[name]
    if name == "second_clap":
        return lambda work, recipe: _second_clap(work, tiny)
    if name == "judge":
        return lambda work, recipe: judge(work, tiny)
    from train_stages import train_stage

    stage = name.removesuffix("_stage")
    return lambda work, recipe: train_stage(stage, work.tokens, work.checkpoints, work.models, recipe)


def _second_clap(work, tiny: bool):
    from judges.second_clap import second_clap

    sizes = {"num_clips": 40, "num_steps": 5} if tiny else {}
    return second_clap(work.models, os.cpu_count() or 1, **sizes)


@dataclass(frozen=True)
class Made:
    """A clip that is heard as it is, without a file."""

    samples: object
    rate: int

    def audio(self):
        return self.samples, self.rate


def judge(work, tiny: bool) -> None:
    """Generate music for the prompts of judge.py, and print what can be measured without other people's packages."""
    import torch
    from judge import LENGTH_IN_S, REAL_SEED, add_clap
    from judges.hearing import Clip
    from judges.prompts import TABLE, clips_that_fit, read_table
    from judges.sound import mean_figures
    from judges.table import Verdict, write_markdown

    from open_musiclm import MusicLMPipeline

    prompts = read_table(TABLE)[: 4 if tiny else NUM_PROMPTS]
    pipeline = MusicLMPipeline.from_pretrained(work.output)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    texts = [prompt.text for prompt in prompts]
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    audios = pipeline(texts, audio_length_in_s=LENGTH_IN_S, generator=generators).audios
    rows: dict[str, list] = {
        "real": [
            Clip(seed=REAL_SEED, index=index, length_in_s=LENGTH_IN_S)
            for index in clips_that_fit(prompts, REAL_SEED, LENGTH_IN_S)
        ],
        "model": [Made(audio[0], pipeline.sampling_rate) for audio in audios],
    }
    verdicts = {row: Verdict(figures=mean_figures(clips)) for row, clips in rows.items()}
    known = add_clap(verdicts, rows, prompts, _second_clap(work, tiny))
    print(write_markdown(verdicts, {}, len(prompts)))
    for name, value in known.items():
        print(f"- second CLAP, {name}: {value:.2f}")


# ------------------------------------------------------------------ one call


def run(call: str, work_dir: Path, minutes: float, tiny: bool, environment: dict[str, str]) -> bool:
    """Take the steps of a call, as many at once as can be; returns whether all are done before the time is up."""
    deadline = time.monotonic() + 60 * minutes
    steps = CALLS[call]
    logs = work_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    running: dict[str, subprocess.Popen] = {}
    failed: list[str] = []

    def is_done(name: str) -> bool:
        return name not in running and (work_dir / f"{name}.done").exists()

    while not all(is_done(step.name) for step in steps):
        for step in steps:
            ready = all(is_done(name) for name in step.needs)
            if not is_done(step.name) and step.name not in (*running, *failed) and ready:
                command = [sys.executable, __file__, "step", step.name, "--work-dir", str(work_dir)]
                command += ["--tiny"] if tiny else []
                with open(logs / f"{step.name}.log", "a") as log:
                    running[step.name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        ended = [name for name, process in running.items() if process.poll() is not None]
        for name in ended:
            process = running.pop(name)
            if process.returncode:
                failed.append(name)
            left = deadline - time.monotonic()
            print(f"{name}: {'FAILED' if process.returncode else 'done'}, {left:.0f} s are left", flush=True)
            _print_log(logs / f"{name}.log", whole=bool(process.returncode))
        if not (running or ended) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for name, process in running.items():
        process.terminate()
        process.wait()
        print(f"{name}: stopped, for the time is up; the same call again goes on from its last checkpoint")
    return all(is_done(step.name) for step in steps)


def _print_log(path: Path, whole: bool) -> None:
    """What a step said, its progress bars aside."""
    lines = path.read_text(errors="replace").replace("\r", "\n").split("\n")
    said = [line for line in lines if line.strip() and "%|" not in line and (whole or "Warning" not in line)]
    for line in said[-60:]:
        print(f"    {line}")


# ------------------------------------------------------------------- carrying


def write_parts(paths: list[tuple[Path, str]], folder: Path, name: str) -> None:
    """Pack files, under their names, into `name.000`, `name.001`, … of at most `PART_SIZE` bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz", preset=1) as archive:
        for path, inside in paths:
            archive.add(path, inside)
    packed = stream.getvalue()
    parts = range(0, len(packed), PART_SIZE)
    if len(parts) > MAX_PARTS:
        raise ValueError(f"{len(packed) >> 20} MiB to carry are more than {MAX_PARTS} files of {PART_SIZE >> 20} MiB.")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}.[0-9]*"):
        old.unlink()
    for number, start in enumerate(parts):
        (folder / f"{name}.{number:03d}").write_bytes(packed[start : start + PART_SIZE])
    print(f"{folder / name}.*: {len(packed) / 1e6:.1f} MB in {len(parts)} files")


def read_parts(folder: Path, name: str, output: Path) -> bool:
    """Lay out what `write_parts` packed; returns whether there is anything."""
    parts = sorted(folder.glob(f"{name}.[0-9]*"))
    if parts:
        output.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
            extract_files(archive, output)
    return bool(parts)


def carried_files() -> list[tuple[Path, str]]:
    """The files of the distributions to carry, as they are installed here."""
    from importlib.metadata import distribution

    from packaging.requirements import Requirement

    def closure(names: tuple[str, ...]) -> set[str]:
        seen: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop().lower().replace("_", "-")
            if name in seen:
                continue
            seen.add(name)
            for line in distribution(name).requires or ():
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    waiting.append(requirement.name)
        return seen

    files = []
    for name in sorted(closure(CARRIED) - closure(("torch", "transformers", "numpy"))):
        for file in distribution(name).files or ():
            path = Path(str(file.locate()))
            if path.is_file() and ".." not in file.parts and path.suffix != ".pyc":
                files.append((path, file.as_posix()))
    return files


def environment_with(site: Path, work_dir: Path) -> dict[str, str]:
    """Variables of a process that finds this repository's source, and the packages in `site` after the machine's own:
    what is compiled in them was compiled for the Python that packed them."""
    last = work_dir / "last"
    last.mkdir(parents=True, exist_ok=True)
    (last / "sitecustomize.py").write_text(f"import sys\n\nsys.path.append({str(site.absolute())!r})\n")
    paths = [str(Path(__file__).parents[2] / "src"), str(last.absolute()), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def save_results(work_dir: Path, results: Path) -> None:
    """What the next call needs, or, once there is a pipeline, that and the logs."""
    pipeline = work_dir / "pipeline"
    kept = [pipeline] if (work_dir / "assemble.done").exists() else [work_dir / "models"]
    paths = [path for folder in (*kept, work_dir / "logs") for path in folder.rglob("*") if path.is_file()]
    paths += [*work_dir.glob("*.done"), work_dir / "recipe.json"]
    if kept == [work_dir / "models"]:  # of the rest there is nothing left elsewhere
        rendered = () if (work_dir / "codebooks.done").exists() else ("render",)
        lost = {step.name for step in SECOND} | {*rendered}
        paths = [path for path in paths if path.suffix != ".done" or path.stem not in lost]
    write_parts([(path, path.relative_to(work_dir).as_posix()) for path in paths if path.exists()], results, "results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("pack", "first", "second", "unpack", "step"))
    parser.add_argument("name", nargs="?", help=argparse.SUPPRESS)  # of a step, which is a process of its own
    parser.add_argument("--work-dir", type=Path, default=Path("work/gpu"), help="everything is kept here")
    parser.add_argument("--carried", type=Path, default=Path("build/carried"), help="where `pack` wrote to")
    parser.add_argument("--results", type=Path, default=Path("work/results"), help="where results are written to")
    parser.add_argument("--previous", type=Path, help="results of the call before (default: --results)")
    parser.add_argument("--output", type=Path, help="of `pack` and `unpack`")
    parser.add_argument("--minutes", type=float, default=8.8, help="after which a call ends (default: 8.8)")
    parser.add_argument("--tiny", action="store_true", help="a few clips and steps, to see that it runs")
    arguments = parser.parse_args()
    if arguments.action == "pack":
        write_parts(carried_files(), arguments.output or arguments.carried, "packages")
    elif arguments.action == "unpack":
        if not read_parts(arguments.results, "results", arguments.work_dir):
            parser.error(f"{arguments.results} holds no results.000 …; give --results")
        output = arguments.output or arguments.work_dir / "unpacked"
        output.parent.mkdir(parents=True, exist_ok=True)
        (arguments.work_dir / "pipeline").rename(output)
        print(f"the pipeline is in {output}")
    elif arguments.action == "step":
        steps = {step.name: step for step in CALLS["second"]}
        take_step(steps[arguments.name], arguments.work_dir, arguments.tiny)
    else:
        started = time.monotonic()
        if not (arguments.work_dir / "recipe.json").exists():
            read_parts(arguments.previous or arguments.results, "results", arguments.work_dir)
        site = arguments.work_dir / "site"
        if not site.exists():
            read_parts(arguments.carried, "packages", site)
        environment = environment_with(site, arguments.work_dir)
        environment.setdefault("OMP_NUM_THREADS", "4")  # several trainings stand side by side
        minutes = arguments.minutes - (time.monotonic() - started) / 60
        done = run(arguments.action, arguments.work_dir, minutes, arguments.tiny, environment)
        save_results(arguments.work_dir, arguments.results)
        sys.exit(0 if done else 3)


if __name__ == "__main__":
    main()
