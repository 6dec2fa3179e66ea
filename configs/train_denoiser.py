"""Settings of experiments/train_denoiser.py: the stages of the default model.

`configs/train_denoiser.py` is the diffusion stage; `configs/train_denoiser.py:pixel`
finetunes what it left in `init` on decoded pictures, and with one of `OBJECTIVES`
behind it, as in `:pixel_shortcut`, asks for more than the data;
`configs/train_denoiser.py:rollout` goes on from there on the model's own streams, and
with one of `ABLATIONS` behind it, as in `:rollout_no_history`, leaves one thing out.
"""

from typing import Any

from ml_collections import config_dict

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_history": {"history.probability": 0.0, "rollout.corrupted": 0.0},
    "no_rollouts": {"rollout.modes": "", "history.own": 0.0, "pattern": (0, 0, 1)},
    "clean_commit": {"rollout.modes": "clean/1,clean/2,merged/1"},
    "no_anchor": {"rollout.anchored": 0.0, "anchor_probability": 0.0},
    # Neither history augmentation nor roll-outs: clips with the teacher's history.
    "pairs_alone": {
        "history.probability": 0.0,
        "rollout.modes": "",
        "pattern": (0, 0, 1),
    },
}
"""What is left out of the last stage to see what it is good for."""

OBJECTIVES: dict[str, dict[str, Any]] = {
    "shortcut": {"few_step.objective": "shortcut"},
    "consistency": {"few_step.objective": "consistency"},
}
"""What the pixel stage may ask for beside the data, for fewer steps a frame."""

STAGES = {"diffusion": {}, "pixel": OBJECTIVES, "rollout": ABLATIONS}


def get_config(stage: str = "diffusion") -> config_dict.ConfigDict:
    """`stage` is one of `STAGES`, or one with "_" and a variant of it."""
    name, (stage, _, variant) = stage, stage.partition("_")
    variants = STAGES.get(stage, {})
    if stage not in STAGES or variant not in ("", *variants):
        names = [f"{stage}_{each}" for stage in STAGES for each in STAGES[stage]]
        raise ValueError(
            f"stage={name!r}: choose one of {', '.join([*STAGES, *names])}"
        )
    rollout = stage == "rollout"
    pixel = stage == "pixel" or rollout  # with losses on decoded pictures
    config = config_dict.create(
        workdir=f"runs/denoiser_{name}",
        # A folder made by experiments/prepare_data.py, or "synthetic" for a smoke run.
        data="runs/data",
        codec="runs/codec/codec.safetensors",
        styler="",  # trained style network; empty: no neural styles
        # Names with commas: the styles that take part; empty: all. One that is named
        # twice has two clips a step.
        styles="",
        # Clips a step of each style that has several looks. Of one alone a step learns
        # to show the look that it has just seen; side by side they teach the choice.
        looks=4,
        vgg="",  # HED's VGG16 weights; empty: no perceptual term in the pixel stage
        init="",  # denoiser.safetensors to start from; empty: fresh weights
        model="default",  # a name in mirage_jax.config.MODELS
        restore=True,
        profile_dir="",  # folder for a trace of some steps (docs/profiling.md)
        # Devices that draw batches of their own, and those among them that share one
        # copy of the weights and the optimiser's state; -1: all that are left.
        mesh=dict(data=-1, fsdp=1),
        # Several processes without Slurm: address:port of the first one, how many they
        # are, and the number of this one.
        hosts=dict(coordinator="", processes=0, process=-1),
        # The frame sizes, and what the steps use in turn: clips of each size, then
        # each of the modes of the roll-outs, at the first size.
        sizes=(512, 256),
        pattern=(2, 0, 4, 1, 3, 0) if rollout else (0, 0, 0, 1),
        frames=16,  # twice the ring, see "What running it taught" in docs/design.md
        anchor_probability=0.2,
        source_dropped=0.2 if rollout else 0.1,
        # The last styled frame that had a source takes the place of a missing one.
        stand_in=True,
        # Share of the noise that all cells of a frame have in common; it names the
        # variant of the styles that have several.
        noise_offset=0.5,
        # Uses of a clip in a step, each with its own noise.
        draws=1,
        loss=dict(
            latent=0.3 if pixel else 1.0,
            pixel_l1=2.0 if pixel else 0.0,
            pixel_mse=4.0 if pixel else 0.0,
            perceptual=0.05 if pixel else 0.0,
            decoded=4 if pixel else 1,
            steady=0.4 if rollout else 0.0,  # against flicker
            missing_source=1.0,
            fixed_noise=0.5,  # share of clips
            # What a layer computes again to save memory: "none", "light" or "full".
            remat="none",
        ),
        mix=dict(
            all_noise=0.65 if pixel else 0.45,
            shared=0.1 if pixel else 0.15,
            frame_noise=0.35,
            frame_clean=0.25,
            clean_from=0.75,
        ),
        # 0 switches a part off; so does probability=0 all of them.
        history=dict(
            probability=0.5,
            gain=0.1,
            shift=0.15,
            blur=0.5,
            noise=0.3,
            repeat=0.1,
            drop=0.05,
            round_trip=0.125,
            own=0.25,
        ),
        rollout=dict(
            # Commit/steps, with commas.
            modes="lagged/1,lagged/2,merged/1" if rollout else "",
            frames=28,
            opening=4,  # frames that are learnt from at the start ...
            closing=8,  # ... and at the end
            anchored=0.5,  # share of streams with an anchor
            # Most learnt frames at once, or 0: all, which computes nothing twice and
            # takes more memory.
            together=4,
            corrupted=0.1,  # share of frames whose history is corrupted
        ),
        prompts=dict(mix=0.5, noise=1.0),
        # What a share of the clips is compared with: "regression" has the data alone,
        # "shortcut" and "consistency" the model itself, and `real` of the data.
        few_step=dict(objective="regression", share=0.25, real=0.25, ahead=0.25),
        steps=60_000,
        # 0: by steps, then a killed run goes on exactly.
        minutes=8.0 if rollout else 9.0 if pixel else 10.0,
        optimiser="muon",
        learning_rate=5e-4 if rollout else 1e-3 if pixel else 2e-3,
        warmup_steps=100 if pixel else 300,
        decay_start=0.25 if pixel else 0.7,
        decay="linear",
        final_fraction=0.02 if pixel else 0.4,
        b1=0.9,
        b2=0.99,
        weight_decay=0.01,
        clip_norm=1.0,
        ema=0.998,
        log_every=50,
        picture_every=2000,
        checkpoint_every=2000,
        seed=0,
    )
    config.update_from_flattened_dict(variants.get(variant, {}))
    return config
