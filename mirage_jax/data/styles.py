"""Eight looks of a single frame, as smooth functions of the picture.

Each takes float32 RGB `[..., H, W, 3]` in [0, 1] and gives the same shape and range.
Thresholds are soft and lines are anti-aliased: that looks better, does not flicker on
video, and can be learned by a small model. Lengths are fractions of min(H, W).
"""

import math
from collections.abc import Callable
from types import MappingProxyType

import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax.data.filters import (
    blur,
    centre_distance,
    colour,
    gradient,
    luma,
    palette,
    ramp,
    saturate,
    screen,
    shift,
    short_side,
    smooth_edges,
)

Images = Float[Array, "*n H W 3"]


def pencil(images: Images) -> Images:
    """Graphite on warm paper: dodged lines over light shading."""
    grey = blur(luma(images), 0.002)
    fine = grey / (blur(grey, 0.009) + 0.03)
    broad = grey / (blur(grey, 0.03) + 0.05)
    # The dodge darkens only what is darker than its surroundings: lines and folds.
    lines = 2.6 * jnp.maximum(0.92 - fine, 0.0) + 1.0 * jnp.maximum(0.90 - broad, 0.0)
    shading = 0.55 * ramp(blur(grey, 0.006), 0.65, 0.0)
    graphite = 1.0 - jnp.exp(-(lines + shading))
    paper = colour(images, (0.975, 0.950, 0.895))
    return paper + graphite * (colour(images, (0.13, 0.13, 0.16)) - paper)


def cartoon(images: Images) -> Images:
    """Flat, saturated colour in soft steps of brightness, with dark outlines."""
    calm = smooth_edges(images, 0.008, 0.06)
    flat = smooth_edges(calm, 0.012, 0.06)
    grey = luma(flat)
    levels = 5.0
    place = grey * levels
    inside = place - jnp.floor(place) - 0.5
    steps = jnp.floor(place) + 0.5 + 0.5 * jnp.tanh(5.0 * inside) / math.tanh(2.5)
    # Half a level up: the darkest step is not black and the brightest is white.
    steps = (steps + 0.35) / (levels + 0.35)
    painted = saturate(flat * (steps + 0.02) / (grey + 0.02), 1.45)
    # Dark side of an edge, by a difference of gaussians: lines of an even width.
    smooth = blur(luma(calm), 0.003)
    edge = blur(smooth, 0.007) - smooth
    outline = jnp.tanh(22.0 * jnp.maximum(edge - 0.012, 0.0))
    ink = colour(images, (0.05, 0.04, 0.10))
    painted = jnp.clip(painted, 0.0, 1.0)
    return painted + outline * (ink - painted)


def neon(images: Images) -> Images:
    """A dark room in which every edge is a glowing tube; hue follows its direction."""
    right, down = gradient(blur(luma(images), 0.0045))
    # Structure tensor: the doubled angle has no jump between opposite directions.
    power = right * right + down * down
    tensor = jnp.concatenate(
        [right * right - down * down, 2.0 * right * down, power], axis=-1
    )
    smooth = blur(tensor, 0.010)
    turn = smooth[..., :2] / (smooth[..., 2:] + 0.5)
    # One direction all around is an outline; many directions are grass and gravel.
    outline = ramp(jnp.sum(turn * turn, axis=-1, keepdims=True), 0.0, 0.7)
    tube = (0.35 + 0.65 * outline) * (1.0 - jnp.exp(-power / 7.5**2))
    hue = jnp.clip(
        colour(images, (0.60, 0.42, 0.95))
        + turn[..., :1] * colour(images, (0.48, -0.40, 0.02))
        + turn[..., 1:] * colour(images, (0.25, 0.32, -0.55)),
        0.0,
        1.0,
    )
    light = tube * hue
    scene = 0.02 + blur(images, 0.006) * colour(images, (0.10, 0.07, 0.20))
    glow = 0.55 * blur(light, 0.012) + 0.75 * blur(light, 0.04)
    core = light + 0.35 * tube * tube
    return screen(screen(scene, glow), core)


def thermal(images: Images) -> Images:
    """A heat camera: bright and warm-coloured things are hot."""
    soft = blur(images, 0.006)
    heat = luma(soft) + 0.45 * (soft[..., :1] - soft[..., 2:])
    return palette(
        heat,
        (
            (0.00, (0.01, 0.00, 0.10)),
            (0.18, (0.13, 0.02, 0.45)),
            (0.36, (0.55, 0.02, 0.60)),
            (0.54, (0.92, 0.18, 0.32)),
            (0.72, (1.00, 0.55, 0.05)),
            (0.88, (1.00, 0.88, 0.20)),
            (1.05, (1.00, 1.00, 0.92)),
        ),
    )


def sepia(images: Images) -> Images:
    """An old photograph: brown tones, faded blacks, soft light, dark corners."""
    grey = luma(images)
    grey = 0.75 * grey + 0.25 * blur(grey, 0.01)
    tone = grey + 0.35 * (ramp(grey, 0.0, 1.0) - grey)
    toned = palette(
        tone,
        (
            (0.00, (0.13, 0.075, 0.04)),
            (0.35, (0.44, 0.29, 0.17)),
            (0.70, (0.80, 0.64, 0.43)),
            (1.00, (0.99, 0.93, 0.78)),
        ),
    )
    return toned * (1.0 - 0.45 * ramp(centre_distance(images), 0.35, 1.1))


def mosaic(images: Images) -> Images:
    """Glazed square tiles, 32 on the short side, with bevels and dark grout."""
    tile = max(short_side(images) // 32, 1)
    height, width = images.shape[-3:-1]
    rows, columns = -(-height // tile), -(-width // tile)
    pad = [(0, 0)] * (images.ndim - 3)
    pad += [(0, rows * tile - height), (0, columns * tile - width), (0, 0)]
    padded = jnp.pad(images, pad, mode="edge")
    lead = images.shape[:-3]
    blocks = padded.reshape(*lead, rows, tile, columns, tile, 3)
    paint = jnp.clip(saturate(blocks.mean(axis=(-4, -2)), 1.3), 0.0, 1.0)
    paint = jnp.repeat(jnp.repeat(paint, tile, axis=-3), tile, axis=-2)
    paint = paint[..., :height, :width, :]

    place = (jnp.arange(tile, dtype=jnp.float32) + 0.5) / tile * 2.0 - 1.0
    ones = (1,) * len(lead)
    down = jnp.tile(place, rows)[:height].reshape(*ones, height, 1, 1)
    right = jnp.tile(place, columns)[:width].reshape(*ones, 1, width, 1)
    # A high norm of the place in the tile is a square with round corners.
    rim = (down**8 + right**8) ** 0.125
    glaze = 1.0 + 0.22 * rim**3 * (-(down + right) / 2.0) + 0.06 * (1.0 - rim)
    grout = ramp(rim, 0.80, 1.02)
    tiles = jnp.clip(paint * glaze, 0.0, 1.0)
    joint = 0.40 * paint + colour(images, (0.05, 0.05, 0.06))
    return tiles + grout * (joint - tiles)


def _strokes(images: Images, fraction: float) -> Images:
    """Soft Kuwahara filter: the calmest of eight neighbourhoods counts most.

    After Papari, Petkov and Campisi, "Artistic edge and corner enhancing smoothing"
    (2007); each sector is a gaussian moved aside, so all eight share one blur.
    """
    radius = max(1, round(1.6 * fraction * short_side(images)))
    # Squares around the middle lose less to rounding in the variance.
    grey = luma(images) - 0.5
    moments = blur(jnp.concatenate([images, grey * grey], axis=-1), fraction)
    mean = moments[..., :3]
    variance = jnp.maximum(moments[..., 3:] - (luma(mean) - 0.5) ** 2, 0.0)
    calm = 1.0 / (1.0 + 700.0 * variance) ** 3
    weighted = jnp.concatenate([mean * calm, calm], axis=-1)
    total = jnp.zeros_like(weighted)
    for sector in range(8):
        angle = sector * math.pi / 4.0
        offset = round(radius * math.sin(angle)), round(radius * math.cos(angle))
        total = total + shift(weighted, *offset)
    return total[..., :3] / total[..., 3:]


def oil(images: Images) -> Images:
    """Thick paint: strokes that follow the shapes, rich colour, light on the relief."""
    painted = _strokes(_strokes(images, 0.006), 0.0045)
    # Some of the picture under the paint: eyes are smaller than a stroke.
    painted = painted + 0.25 * (blur(images, 0.003) - painted)
    # Unsharp masking at the width of a stroke gives each stroke its own rim.
    painted = painted + 0.6 * (painted - blur(painted, 0.010))
    right, down = gradient(blur(luma(painted), 0.003))
    relief = jnp.tanh(0.05 * (right + down))
    # Deep shadows and rich pigment under a warm varnish.
    rich = saturate(painted + 0.4 * (ramp(painted, 0.0, 1.0) - painted), 1.4)
    varnish = colour(images, (1.07, 0.99, 0.84))
    return jnp.clip(rich * varnish * (1.0 + 0.16 * relief), 0.0, 1.0)


def night(images: Images) -> Images:
    """Day for night: blue moonlight, deep shadows, small lights that glow."""
    grey = blur(luma(images), 0.004)
    around = blur(grey, 0.06)
    # Only what outshines its surroundings is a lamp; a bright sky stays moonlit.
    lamp = ramp(grey - around, 0.08, 0.45) * ramp(grey, 0.45, 0.95)
    moonlit = jnp.maximum(saturate(images, 0.45), 0.0)
    tone = 0.75 * moonlit**1.5
    scene = tone * colour(images, (0.42, 0.60, 1.05)) + colour(
        images, (0.010, 0.018, 0.050)
    )
    light = lamp * colour(images, (1.0, 0.78, 0.42))
    glow = 0.8 * blur(light, 0.012) + 1.3 * blur(light, 0.045)
    corners = 1.0 - 0.35 * ramp(centre_distance(images), 0.4, 1.1)
    return jnp.clip(screen(screen(scene * corners, glow), 0.85 * light), 0.0, 1.0)


PROCEDURAL_STYLES: MappingProxyType[str, Callable[[Images], Images]] = MappingProxyType(
    {
        "pencil": pencil,
        "cartoon": cartoon,
        "neon": neon,
        "thermal": thermal,
        "sepia": sepia,
        "mosaic": mosaic,
        "oil": oil,
        "night": night,
    }
)
