"""Our own model in PyTorch, with and without the slot bias."""

import functools
import time

import jax
import torch

from experiments.peers import torch_weights
from experiments.peers.clock import time_calls
from experiments.peers.rivals import Found, Settings
from experiments.peers.torch_attention import allow, choose_attention
from experiments.peers.torch_graph import prepare, recorded, versions, wait
from experiments.peers.torch_stream import Memory, TorchStream, full_memory
from mirage_jax.config import DOWNSAMPLE, model_config

# With the slot bias or without, and what the name of that ends in.
BIASED = {True: "", False: "_no_bias"}


def measure(name: str, settings: Settings) -> Found:
    """Times frames and passes, after each kind of pass was held to float32.

    Without the slot bias, `<name>_no_bias`, the model is incomplete: it cannot tell the
    age of a slot, nor an empty one. It shows what the mask costs.
    """
    begin = time.perf_counter()
    jax.config.update("jax_platforms", "cpu")  # for shapes and positions alone
    device, dtype = prepare(settings.on_gpu), torch.bfloat16
    config = model_config(settings.model)
    weights = torch_weights.drawn(config, dtype, device)
    side, c = settings.side, config.denoiser
    memory = full_memory(config, (side // (DOWNSAMPLE * c.patch)) ** 2, dtype, device)
    stream = TorchStream(config, weights, memory, side, settings.compile)
    shape = (side // DOWNSAMPLE, side // DOWNSAMPLE, config.codec.channels)
    noise, latent = (torch.randn(shape, device=device) for _ in range(2))
    source = torch.randint(256, (side, side, 3), dtype=torch.uint8, device=device)
    parameters = torch_weights.count(weights)

    before = memory.copy()
    exact = _exact(stream, weights)
    wanted = {biased: _fresh(exact, before, noise, latent, biased) for biased in BIASED}
    del exact
    times, errors, choices, seconds = {}, {}, {}, 0.0
    for biased, suffix in BIASED.items():
        label = name + suffix
        choices[label] = _choose(stream, biased)
        one_pass = recorded(functools.partial(stream.denoise, noise, latent, biased))
        memory.write(before)
        difference = one_pass() - wanted[biased]
        errors[f"{label}_pass"] = float(difference.norm() / wanted[biased].norm())
        frame = recorded(functools.partial(stream.frame, source, biased))
        wait(frame())
        seconds = seconds or time.perf_counter() - begin
        times[label] = time_calls(frame, wait, settings.frames)
        times[f"{label}_pass"] = time_calls(one_pass, wait, settings.frames)
    setup = versions() | {
        "compile": settings.compile,
        "precision": "bfloat16",
        "attention": choices,
        "incomplete": [
            name + suffix for biased, suffix in BIASED.items() if not biased
        ],
    }
    return Found(times, parameters, seconds, setup, errors)


def _exact(stream: TorchStream, weights: torch_weights.Weights) -> TorchStream:
    """The same stream in float32, operation by operation."""
    memory = stream.memory
    wide = memory._replace(k=memory.k.float(), v=memory.v.float()).copy()
    exact = TorchStream(
        stream.model, torch_weights.widened(weights), wide, stream.side, "eager"
    )
    exact.shared, exact.last = stream.shared.float(), stream.last.float()
    return exact


def _fresh(
    stream: TorchStream,
    memory: Memory,
    noise: torch.Tensor,
    latent: torch.Tensor,
    biased: bool,
) -> torch.Tensor:
    """A pass on this memory."""
    stream.memory.write(memory)
    return stream.denoise(noise, latent, biased)


def _choose(stream: TorchStream, biased: bool) -> str:
    """The quickest attention for a layer of this stream."""
    allow("flash", "efficient", "cudnn", "math")
    k, v = (part[0].transpose(0, 1)[None] for part in stream.memory[:2])
    q = torch.randn_like(k[:, :, : stream.tokens])
    mask = None
    if biased:
        mask = k.new_zeros(1, k.shape[1], 1, k.shape[2])
    return choose_attention(q, k, v, mask)
