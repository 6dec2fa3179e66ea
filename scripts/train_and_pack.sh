#!/usr/bin/env bash
# One stage of the denoiser's training, from packed weights to a packed model that can be
# streamed: RUNS/STAGE/model. For scripts that compare stages.
#
#   scripts/train_and_pack.sh STAGE DATA VGG MODEL RUNS [FLAGS]
#
# STAGE: of configs/train_denoiser.py; DATA: folder of experiments/prepare_data.py; VGG:
# HED's VGG16 weights (.npz); MODEL: folder of the packed model to start from, with codec
# and style network; FLAGS: such as --config.frames=8. MINUTES of the training. PYTHON:
# the interpreter.
set -euo pipefail
if [ $# -lt 5 ]; then
  echo "usage: $0 STAGE DATA VGG MODEL RUNS [FLAGS]" >&2
  exit 2
fi
stage=$1 data=$2 vgg=$3 model=$4 runs=$5
shift 5
python=${PYTHON:-.venv/bin/python}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/xla}
export XLA_FLAGS="--xla_gpu_autotune_level=1 --xla_gpu_enable_triton_gemm=false ${XLA_FLAGS:-}"

"$python" -m experiments.train_denoiser \
  --config="configs/train_denoiser.py:$stage" --config.data="$data" \
  --config.vgg="$vgg" --config.codec="$model/codec.safetensors" \
  --config.styler="$model/styler.safetensors" \
  --config.init="$model/denoiser.safetensors" \
  --config.workdir="$runs/$stage" --config.minutes="${MINUTES:-4.0}" "$@"
"$python" -m experiments.export_model --codec="$model/codec.safetensors" \
  --denoiser="$runs/$stage/denoiser.safetensors" \
  --styler="$model/styler.safetensors" --out="$runs/$stage/model"
