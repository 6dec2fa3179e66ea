"""Settings of experiments/train_codec.py: the codec of the default model."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """Five minutes of training on one H100 or H200."""
    return config_dict.create(
        workdir="runs/codec",
        # A folder made by experiments/prepare_data.py, or "synthetic" for a smoke run.
        data="runs/data",
        vgg="",  # HED's VGG16 weights, .npz; empty: no perceptual loss
        styler="",  # trained style network; empty: no neural styles
        styles="",  # names with commas: the styles that take part; empty: all
        held_out="",  # folder of clips never trained on; empty: training pictures
        init="",  # codec.safetensors to go on from; empty: fresh weights
        model="default",  # a name in mirage_jax.config.MODELS
        restore=True,
        profile_dir="",  # folder for a trace of some steps (docs/profiling.md)
        # Pictures a device draws for a step: (raw, per style) at each size, and which
        # of the sizes the steps use in turn.
        sizes=(256, 512),
        raw=(32, 24),
        per_style=(2, 1),
        pattern=(0, 0, 1),
        loss=dict(
            l1=1.0,
            mse=8.0,
            gradient=0.5,
            perceptual=0.01,
            latent=1e-4,
            noise=0.05,
        ),
        statistics_batches=200,
        steps=10_000,
        minutes=5.0,  # 0: by steps, then a killed run goes on exactly
        optimiser="muon",
        learning_rate=1e-3,
        warmup_steps=200,
        decay_start=0.0,
        decay="cosine",
        final_fraction=0.02,
        b1=0.9,
        b2=0.99,
        weight_decay=0.0,
        clip_norm=1.0,
        ema=0.999,
        log_every=50,
        picture_every=1000,
        checkpoint_every=2000,
        seed=0,
    )
