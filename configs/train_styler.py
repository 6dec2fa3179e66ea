"""Training of the style network on paintings: `experiments/train_styler.py`."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """About 75 seconds on four H100s, after compilation."""
    return ConfigDict(
        {
            # A folder that experiments/prepare_data.py wrote, or "synthetic".
            "data": "runs/data",
            "paintings": "../shared/data/paintings",
            "vgg": "../shared/data/weights/hed_vgg_f16_to_conv4_1.npz",
            "workdir": "runs/styler",
            "output": "runs/styler/styler.safetensors",
            # False starts anew and deletes what an earlier run left in workdir.
            "restore": True,
            # The sizes take turns, a step each.
            "sizes": (512, 256),
            # Pictures of a style on one device, at each size.
            "pictures_per_style": (1, 4),
            "dtype": "bfloat16",
            "loss": {
                "content": 1.0,
                "style": 10.0,
                "variation": 3.0,
                "stability": 30.0,
            },
            # Fields of mirage_jax.training.optimiser.TrainConfig.
            "train": {
                "steps": 6000,
                "minutes": 1.25,
                "learning_rate": 2e-3,
                "warmup_steps": 100,
                "decay_start": 0.3,
                "decay": "cosine",
                "final_fraction": 0.02,
                "b1": 0.9,
                "b2": 0.99,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
                "ema": 0.998,
                "log_every": 100,
                "picture_every": 1000,
                "checkpoint_every": 2000,
                "seed": 0,
            },
        }
    )
