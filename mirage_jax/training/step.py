"""One step of training as one XLA program over a mesh of devices.

Under `jax.shard_map` every device draws its own batch with its own key from the copied
data, gathers the weights of which it holds a part (see `mesh`) and keeps that part of
the averaged gradient. Then the optimiser (AdamW of Loshchilov and Hutter, 2019, or Muon
of Jordan et al., 2024, after a clip of the global norm) and the running average of the
weights run on the parts; what they need of one another, such as Muon's products of
whole matrices, XLA's partitioner sends. Master weights are float32; a loss casts to
bfloat16 by itself.
"""

from collections.abc import Callable
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mirage_jax.training.mesh import AXES, split, split_spec, whole
from mirage_jax.training.optimiser import TrainConfig, optimiser


class LossFn(Protocol):
    """`(params, key, data, step) -> (scalar loss, {name: scalar metric})`.

    Runs on each device with its own key; `step` is a traced int32 scalar. The metrics
    must not be called "loss", "gradient_norm" or "learning_rate".
    """

    def __call__(
        self, params: Any, key: jax.Array, data: Any, step: jax.Array, /
    ) -> tuple[jax.Array, dict[str, jax.Array]]: ...


@flax.struct.dataclass
class TrainState:
    """Everything a step changes, and the key it never changes."""

    step: jax.Array  # int32 [], steps done
    params: Any  # float32
    ema: Any  # float32, the running average of params
    opt_state: Any
    key: jax.Array  # PRNG key of the whole run


def init_state(config: TrainConfig, params: Any) -> TrainState:
    """A fresh state around float32 copies of `params` (the caller's stay valid)."""

    def copy(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), tree)

    params = copy(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=copy(params),
        opt_state=optimiser(config).init(params),
        key=jax.random.key(config.seed),
    )


def make_step(
    config: TrainConfig, loss: LossFn, state: TrainState, mesh: Mesh
) -> Callable[..., Any]:
    """`(state, data, learning_rate) -> (state, {name: metric})`, jitted, state donated.

    `state`, of arrays or shapes, lies on `mesh` as `mesh.split` says; data, learning
    rate and metrics are copied.
    """
    tx = optimiser(config)
    specs = jax.tree.map(lambda leaf: split_spec(leaf, mesh), state.params)
    copy = PartitionSpec()

    def gather(part: jax.Array, spec: PartitionSpec) -> jax.Array:
        if "fsdp" not in spec:
            return part
        axis = spec.index("fsdp")
        return jax.lax.all_gather(part, "fsdp", axis=axis, tiled=True)

    def average(gradient: jax.Array, spec: PartitionSpec) -> jax.Array:
        if "fsdp" not in spec:
            return jax.lax.pmean(gradient, AXES)
        # The derivative of a gather is a sum over those that gathered.
        return jax.lax.pmean(gradient, "data") / mesh.shape["fsdp"]

    def device_gradient(
        params: Any, key: jax.Array, step: jax.Array, data: Any
    ) -> tuple[Any, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, step)
        key = jax.random.fold_in(key, jax.lax.axis_index(AXES))

        def of_parts(parts: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            with jax.named_scope("gather"):
                gathered = jax.tree.map(gather, parts, specs)
            return loss(gathered, key, data, step)

        value_and_gradient = jax.value_and_grad(of_parts, has_aux=True)
        (value, metrics), gradient = value_and_gradient(params)
        metrics = {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}
        metrics["loss"] = jnp.asarray(value, jnp.float32)
        gradient = jax.tree.map(average, gradient, specs)
        return gradient, jax.lax.pmean(metrics, AXES)

    mean_gradient = jax.shard_map(
        device_gradient,
        mesh=mesh,
        in_specs=(specs, copy, copy, copy),
        out_specs=(specs, copy),
        check_vma=False,
    )

    def one_step(
        state: TrainState, data: Any, learning_rate: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        gradient, metrics = mean_gradient(state.params, state.key, state.step, data)
        metrics["gradient_norm"] = optax.tree.norm(gradient)

        # Muon needs a rough direction of each matrix alone: 8 bits are enough for its
        # products (Jordan et al. 2024).
        rough = jax.default_matmul_precision("BF16_BF16_F32")
        with jax.named_scope("optimiser"), rough:
            updates, opt_state = tx.update(gradient, state.opt_state, state.params)
            params = jax.tree.map(
                lambda p, u: p + learning_rate * u, state.params, updates
            )
        with jax.named_scope("average"):
            # Early on it must follow quickly, or it is mostly the initial weights.
            count = state.step.astype(jnp.float32)
            decay = jnp.minimum(config.ema, (1 + count) / (10 + count))
            ema = jax.tree.map(
                lambda e, p: e + (1 - decay) * (p - e), state.ema, params
            )
        state = TrainState(state.step + 1, params, ema, opt_state, state.key)
        return state, metrics

    return jax.jit(
        one_step,
        donate_argnums=0,
        out_shardings=(split(state, mesh), NamedSharding(mesh, copy)),
    )


def first_device(tree: Any) -> Any:
    """Whole arrays on this host's first device; all hosts must call it together."""
    return jax.tree.map(whole, tree)
