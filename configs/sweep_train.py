"""Settings of experiments/sweep.py: a random search over the diffusion stage.

Needs prepared data and a codec, as docs/training.md makes them.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Twenty short trainings, ranked by the error of frames made from pure noise."""
    return config_dict.create(
        name="denoiser",
        script="experiments.train_denoiser",
        base=(
            "--config=configs/train_denoiser.py",
            "--config.workdir={folder}",
            "--config.minutes=2.0",
        ),
        grid=(
            "--config.learning_rate=log:5e-4..8e-3",
            "--config.b2=0.95,0.99,0.999",
            "--config.history.probability=0.25..0.75",
        ),
        metric=("one_step_512:lower", "steps_per_s:higher"),
        random=20,
        seed=0,
    )
