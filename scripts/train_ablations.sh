#!/usr/bin/env bash
# The last stage of training, and the same without one of its parts, at equal minutes
# and from the same weights, and how much the streams of each drift.
#
#   scripts/train_ablations.sh DATA VGG MODEL HELD_OUT [RUNS]
#
# DATA: folder of experiments/prepare_data.py; VGG: HED's VGG16 weights (.npz);
# MODEL: folder of the packed model to start from, with codec and style network;
# HELD_OUT: folder of clips never trained on. MINUTES of each training. FRAMES of each
# stream. PYTHON: the interpreter. What follows RUNS goes to every training, such as
# --config.frames=8.
set -euo pipefail
if [ $# -lt 4 ]; then
  echo "usage: $0 DATA VGG MODEL HELD_OUT [RUNS [FLAGS]]" >&2
  exit 2
fi
data=$1 vgg=$2 model=$3 held_out=$4 runs=${5:-runs/ablations}
shift $(($# < 5 ? $# : 5))
python=${PYTHON:-.venv/bin/python}

for stage in rollout rollout_no_history rollout_no_rollouts rollout_clean_commit \
  rollout_no_anchor rollout_pairs_alone; do
  "$(dirname "$0")/train_and_pack.sh" "$stage" "$data" "$vgg" "$model" "$runs" "$@"
  # Streams that read their own output, as the stage was trained for.
  mode=lagged/1 anchor=--anchor
  if [ "$stage" = rollout_clean_commit ]; then mode=clean/1; fi
  if [ "$stage" = rollout_no_anchor ]; then anchor=--noanchor; fi
  # It exits with 1 where a bar is missed, which is what an ablation is for: what tells
  # that it failed is a file that is not there.
  rm -f "$runs/$stage/drift.json"
  "$python" -m experiments.drift --model="$runs/$stage/model" --clips="$held_out" \
    --styler="$model/styler.safetensors" --modes="$mode" "$anchor" --loops=1 \
    --noheld --frames="${FRAMES:-2000}" --out="$runs/$stage/drift.json" --pictures="" ||
    test -s "$runs/$stage/drift.json"
done
