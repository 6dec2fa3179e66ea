#!/usr/bin/env bash
# The whole recipe of the default model, in order: style network, codec, denoiser
# (diffusion, pixels, roll-outs), export, evaluation. Each stage goes on where it stopped.
#
#   scripts/train_default.sh DATA VGG PAINTINGS HELD_OUT [RUNS]
#
# DATA: folder of experiments/prepare_data.py; VGG: HED's VGG16 weights (.npz);
# PAINTINGS: folder of paintings; HELD_OUT: folder of clips never trained on.
# Minutes of the stages on one GPU: STYLER, CODEC, DIFFUSION, PIXEL and ROLLOUT. PYTHON:
# the interpreter.
set -euo pipefail
if [ $# -lt 4 ]; then
  echo "usage: $0 DATA VGG PAINTINGS HELD_OUT [RUNS]" >&2
  exit 2
fi
data=$1 vgg=$2 paintings=$3 held_out=$4 runs=${5:-runs}
python=${PYTHON:-.venv/bin/python}
# Stages share most of their programs; autotuning costs more than it gains here.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/xla}
export XLA_FLAGS="--xla_gpu_autotune_level=1 --xla_gpu_enable_triton_gemm=false ${XLA_FLAGS:-}"

styler=$runs/styler/styler.safetensors
codec=$runs/codec/codec.safetensors
diffusion=$runs/denoiser_diffusion/denoiser.safetensors
pixel=$runs/denoiser_pixel/denoiser.safetensors
rollout=$runs/denoiser_rollout/denoiser.safetensors

"$python" -m experiments.train_styler --config=configs/train_styler.py \
  --config.data="$data" --config.paintings="$paintings" --config.vgg="$vgg" \
  --config.workdir="$runs/styler" --config.output="$styler" \
  --config.train.minutes="${STYLER:-1.25}" --config.train.learning_rate=1e-3
"$python" -m experiments.train_codec --config=configs/train_codec.py \
  --config.data="$data" --config.vgg="$vgg" --config.styler="$styler" \
  --config.held_out="$held_out" --config.workdir="$runs/codec" \
  --config.minutes="${CODEC:-5.0}"
"$python" -m experiments.train_denoiser --config=configs/train_denoiser.py \
  --config.data="$data" --config.codec="$codec" --config.styler="$styler" \
  --config.workdir="$runs/denoiser_diffusion" --config.minutes="${DIFFUSION:-10.0}"
"$python" -m experiments.train_denoiser --config=configs/train_denoiser.py:pixel \
  --config.data="$data" --config.codec="$codec" --config.styler="$styler" \
  --config.vgg="$vgg" --config.init="$diffusion" \
  --config.workdir="$runs/denoiser_pixel" --config.minutes="${PIXEL:-9.0}"
"$python" -m experiments.train_denoiser --config=configs/train_denoiser.py:rollout \
  --config.data="$data" --config.codec="$codec" --config.styler="$styler" \
  --config.vgg="$vgg" --config.init="$pixel" \
  --config.workdir="$runs/denoiser_rollout" --config.minutes="${ROLLOUT:-8.5}"
"$python" -m experiments.export_model --codec="$codec" --denoiser="$rollout" \
  --styler="$styler" --out="$runs/model"
"$python" -m experiments.evaluate --model="$runs/model" --clips="$held_out" \
  --styler="$runs/model/styler.safetensors" --out="$runs/quality.json" \
  --pictures="$runs/pictures"
