#!/usr/bin/env bash
# The last stage of training, and the same without one of its parts, at equal minutes
# and from the same weights; each becomes a model that can be streamed and compared.
#
#   scripts/train_ablations.sh DATA VGG MODEL [RUNS]
#
# DATA: folder of experiments/prepare_data.py; VGG: HED's VGG16 weights (.npz);
# MODEL: folder of the packed model to start from, with codec and style network.
# MINUTES of each training. PYTHON: the interpreter. What follows DATA, VGG, MODEL and
# RUNS goes to every training, such as --config.frames=8.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 DATA VGG MODEL [RUNS [FLAGS]]" >&2
  exit 2
fi
data=$1 vgg=$2 model=$3 runs=${4:-runs/ablations}
shift $(($# < 4 ? $# : 4))

for stage in rollout rollout_no_history rollout_no_rollouts rollout_clean_commit \
  rollout_no_anchor; do
  "$(dirname "$0")/train_and_pack.sh" "$stage" "$data" "$vgg" "$model" "$runs" "$@"
done
