#!/usr/bin/env bash
# Everything from a folder of music: codebooks, tokens, three stages from random weights, a pipeline, a song.
#
#     examples/train_from_scratch.sh [MUSIC_DIR] [WORK_DIR]
#
# Without a folder: ten synthesized clips, stages of two small layers, a few steps (it runs, it does not sing). For music
# give a folder, `--preset small` or `large` in place of SIZE, and leave out `--steps` to train as long as published.
# The frozen networks (CLAP, semantic encoder, codec) are those of MODEL, by default the one in the box.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
work=${2:-from-scratch}
music=${1:-$work/clips}
model=${MODEL:-$(python -c "from open_musiclm import mini_checkpoint; print(mini_checkpoint())")}
size=${SIZE:---config hidden_size=64 --config num_hidden_layers=2 --config num_attention_heads=2 --steps 5 --batch-size 2 --accumulate 1}

mkdir -p "$work"
[ -d "$music" ] || python "$here/ten_clips.py" "$music"

# codebooks of these few clips have to be small; with hours of music leave the sizes out
open-musiclm fit-codebooks "$music" --model "$model" --output "$work/codebooks" \
    --clap-codebook-size "${CLAP_CODES:-16}" --semantic-codebook-size "${SEMANTIC_CODES:-64}"
open-musiclm tokenize "$music" --model "$model" --codebooks "$work/codebooks" --output "$work/tokens"
for stage in semantic coarse fine; do
    # shellcheck disable=SC2086
    open-musiclm train --stage "$stage" --tokens "$work/tokens" --output "$work/$stage" $size
done
python - "$model" "$work" <<'PYTHON'
import sys

from open_musiclm.training import assemble_pipeline

model, work = sys.argv[1:]
stages = {stage: f"{work}/{stage}/stage" for stage in ("semantic", "coarse", "fine")}
assemble_pipeline(model, f"{work}/pipeline", codebooks=f"{work}/codebooks", **stages)
PYTHON
open-musiclm generate "a slow low melody in a minor key" --model "$work/pipeline" --duration 2 --output "$work/song.wav" --overwrite
