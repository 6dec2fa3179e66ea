"""Settings of experiments/sweep.py: six runs of the tests' toy, done in seconds."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    return config_dict.create(
        name="toy",
        script="tests.toy_experiment",
        base=("--out={folder}",),
        grid=("--rate=0.1,0.3,0.45", "--momentum=0,0.2"),
        metric=("distance", "loss:lower"),
    )
