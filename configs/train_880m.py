"""Settings of experiments/train_denoiser.py: the stages of the 880M model.

    python -m experiments.train_denoiser --config=configs/train_880m.py \
        --config.mesh.fsdp=2

Those of configs/train_denoiser.py, but for what its size asks: a layer is computed
again for its gradient, one frame size is one program to compile, and the rate is lower.
A step draws one clip of every style on each device.
"""

from ml_collections import config_dict

from configs import train_denoiser


def get_config(stage: str = "diffusion") -> config_dict.ConfigDict:
    config = train_denoiser.get_config(stage)
    config.update(
        workdir=f"runs/880m_{stage}",
        model="lsd_880m",
        sizes=(512,),
        pattern=(0,),
        learning_rate=config.learning_rate / 2,
        warmup_steps=500,
        picture_every=1000,
        # State, average and momentum: 10 GiB in float32.
        checkpoint_every=1000,
    )
    config.loss.remat = "full"
    return config
