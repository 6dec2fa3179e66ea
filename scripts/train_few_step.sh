#!/usr/bin/env bash
# The pixel stage with each of its objectives, at equal minutes and from the same
# weights, and how good each is in one, two and four steps.
#
#   scripts/train_few_step.sh DATA VGG MODEL HELD_OUT [RUNS]
#
# DATA: folder of experiments/prepare_data.py; VGG: HED's VGG16 weights (.npz);
# MODEL: folder of the packed model to start from, with codec and style network;
# HELD_OUT: folder of clips never trained on. MINUTES of each training. PYTHON: the
# interpreter. What follows RUNS goes to every training, such as --config.frames=8.
set -euo pipefail
if [ $# -lt 4 ]; then
  echo "usage: $0 DATA VGG MODEL HELD_OUT [RUNS [FLAGS]]" >&2
  exit 2
fi
data=$1 vgg=$2 model=$3 held_out=$4 runs=${5:-runs/few_step}
shift $(($# < 5 ? $# : 5))
python=${PYTHON:-.venv/bin/python}

for stage in pixel pixel_shortcut pixel_consistency; do
  "$(dirname "$0")/train_and_pack.sh" "$stage" "$data" "$vgg" "$model" "$runs" "$@"
  "$python" -m experiments.evaluate --model="$runs/$stage/model" --clips="$held_out" \
    --styler="$model/styler.safetensors" --sizes=512 --streaming_frames=0 \
    --out="$runs/$stage/quality.json" --pictures=""
done
