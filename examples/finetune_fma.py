# requires: open-musiclm[train]
"""Fine-tune on FMA (Free Music Archive, Defferrard et al. 2017), by genre, with its own splits.

    python examples/finetune_fma.py                            # ten clips in FMA's layout, the model in the box
    python examples/finetune_fma.py --audio fma_small/ --metadata fma_metadata/tracks.csv --genre Rock --steps 2000

The audio is the user's: https://github.com/mdeff/fma has the archives and `fma_metadata.zip`.
"""

import argparse
from pathlib import Path

from ten_clips import make_clips

from open_musiclm import mini_checkpoint
from open_musiclm.data import (
    MusicTokenizer,
    TokenizingPlan,
    find_audio,
    load_musiclm_dataset,
    run_tokenizing,
    write_manifest,
)
from open_musiclm.training import TrainingPlan, train_stage

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--audio", type=Path, help="an unpacked archive: 000/000002.mp3, …")
parser.add_argument("--metadata", type=Path, help="tracks.csv (default: looked for beside the audio)")
parser.add_argument("--genre", help="only this one")
parser.add_argument("--model", help="a pipeline (default: the one in the box)")
parser.add_argument("--stage", choices=("semantic", "coarse", "fine"), default="semantic")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--output", type=Path, default=Path("fma-finetuned"))
args = parser.parse_args()

TRACKS = """,artist,set,set,track,track
,name,split,subset,genre_top,title
track_id,,,,,
"""


def ten_tracks(folder: Path) -> Path:
    """Ten clips in FMA's layout; every fifth is for validation."""
    import soundfile

    make_clips(folder / "clips")
    (folder / "audio" / "000").mkdir(parents=True, exist_ok=True)
    rows = []
    for track, path in enumerate(sorted((folder / "clips").glob("*.wav")), start=2):
        soundfile.write(folder / "audio" / "000" / f"{track:06d}.mp3", *soundfile.read(path))
        split = "validation" if track % 5 == 0 else "training"
        rows.append(f"{track},Ada Nobody,{split},small,{'Rock' if track % 2 else 'Folk'},Clip {track}")
    (folder / "tracks.csv").write_text(TRACKS + "\n".join(rows) + "\n")
    return folder / "audio"


def main() -> None:
    audio = args.audio or ten_tracks(args.output)
    model = args.model or mini_checkpoint()
    dataset = load_musiclm_dataset("fma", audio, metadata=args.metadata)
    if args.genre is not None:
        dataset = dataset.filter(lambda row: row["genre"] == args.genre)

    # tokens of each split, with the genres and artists of both
    rows = [row for split in ("train", "validation") for row in dataset[split]]
    tokenizer = MusicTokenizer.from_pretrained(model, attributes=("genre", "artist"), pieces=rows, labels_from="files")
    for split in ("train", "validation"):
        manifest = args.output / f"{split}.jsonl"
        write_manifest(dataset[split], manifest)
        plan = TokenizingPlan.make(
            find_audio(manifest), args.output / f"tokens-{split}", tokenizer.streams, tokenizer.describe()
        )
        report = run_tokenizing(plan, tokenizer)
        print(
            f"{split}: {report['num_tokenized']} tracks, {report['num_skipped']} left out {report['skipped_by_reason']}"
        )

    # `open-musiclm train` does the same: checkpoints, exact resume, the best by the validation loss
    summary = train_stage(
        TrainingPlan(
            stage=args.stage,
            tokens=str(args.output / "tokens-train"),
            evaluation_tokens=str(args.output / "tokens-validation"),
            output=str(args.output / "run"),
            base=model,
            streams=("genre", "artist"),
            steps=args.steps,
            batch_size=4,
            accumulate=1,
            learning_rate=1e-4,
            best="loss",
        )
    )
    print(
        f"best after {summary['best']['step']} steps: {summary['best']['value']:.4f}; {args.output / 'run'} is a pipeline"
    )


if __name__ == "__main__":
    main()
