"""Runs a per-device step on all devices: `pmap` (default) or `shard_map`, on one host or several.

The step sees only its device's rows and the axis name `AXIS`; all code for the device layout is in this module.

On virtual CPU devices a loop that runs ahead of the computation can deadlock in XLA's rendezvous. A caller must
therefore read the metrics of step i before it starts step i + 2, or block on every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from etp_jax.models.layers import AXIS

REPLICATED, SPLIT = PartitionSpec(), PartitionSpec(AXIS)


class Parallel:
    """Runs steps on all devices of a mesh.

    Attributes:
        mode: `pmap` or `shard_map`; both give the same bits.
        mesh: all devices of all hosts, along `AXIS`.
    """

    def __init__(self, mode: Literal["pmap", "shard_map"], devices: Sequence[Any] | None = None) -> None:
        """Makes the mesh from the devices of all hosts, in the same order on each; None: all available devices."""
        self.mode = mode
        self.mesh = Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))

    @property
    def devices(self) -> int:
        """Number of devices over all hosts."""
        return self.mesh.size

    @property
    def platform(self) -> str:
        """Platform of the devices: `cpu`, `gpu` or `tpu`. They need not be attached (`etp plan`)."""
        platform = self.mesh.devices.flat[0].platform
        return "gpu" if platform == "cuda" else platform

    def wrap_train_step(self, step: Callable[..., Any], tables: Any = REPLICATED) -> Callable[..., Any]:
        """Wraps `step(state, batch, tables) -> (state, metrics)`; both are replicated, the state is donated.

        Args:
            step: function of one device.
            tables: `REPLICATED`, or a tuple with `SPLIT` for those of the tables of which each device has a part.
        """
        return self._wrap(step, (REPLICATED, SPLIT, tables), donate=(0,))

    def wrap_eval_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps `step(params, batch_stats, batch, texts) -> rows`; all hosts get the rows of the whole global batch."""

        def gathered(*args: Any) -> Any:
            return jax.lax.all_gather(step(*args), AXIS, tiled=True)

        return self._wrap(gathered, (REPLICATED, REPLICATED, SPLIT, REPLICATED), donate=())

    def _wrap(self, step: Callable[..., Any], specs: tuple[Any, ...], donate: tuple[int, ...]) -> Any:
        if self.mode == "pmap":
            axes: Any = jax.tree.map(
                lambda spec: 0 if spec == SPLIT else None, specs, is_leaf=lambda spec: isinstance(spec, PartitionSpec)
            )
            devices = list(self.mesh.devices.flat)
            return jax.pmap(step, AXIS, in_axes=axes, out_axes=None, donate_argnums=donate, devices=devices)
        # check_vma would sum gradients a second time: the step's own pmean is the whole reduction.
        spread = jax.shard_map(step, mesh=self.mesh, in_specs=specs, out_specs=REPLICATED, check_vma=False)
        return jax.jit(spread, donate_argnums=donate)

    def put_batch(self, batch: Any) -> Any:
        """Copies this host's rows of a global batch to its devices.

        Returns:
            The batch in the layout of the wrapped step: [local devices, n, ...] for pmap, [global rows, ...] for
            shard_map.
        """
        if self.mode == "shard_map":
            sharding = NamedSharding(self.mesh, SPLIT)
            return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
        local = NamedSharding(self.mesh.local_mesh, SPLIT)
        count = self.mesh.local_mesh.size
        return jax.tree.map(lambda x: jax.device_put(x.reshape(count, -1, *x.shape[1:]), local), batch)

    def join(self, parts: Sequence[jax.Array]) -> jax.Array:
        """Joins an array of each of this host's devices, in order, to one in the layout of `put_batch`.

        With pmap their first axis must have length 1; it becomes that of the devices. No data are copied.
        """
        mesh = self.mesh.local_mesh if self.mode == "pmap" else self.mesh
        shape = mesh.size * parts[0].shape[0], *parts[0].shape[1:]
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, SPLIT), list(parts))

    def replicate(self, tree: Any) -> Any:
        """Copies a tree to every device: a new state, a restored one, or the report table.

        The result may share memory with the given arrays; donating it to a step then deletes them.
        """

        def copy(x: Any) -> jax.Array:
            if isinstance(x, jax.Array) and not x.is_fully_addressable:
                x = x.addressable_data(0)  # restored as a global array: every device holds the whole
            # On several hosts pmap would copy arrays with any other layout, and donation would delete the original.
            return jax.device_put(x, NamedSharding(self.mesh.local_mesh, REPLICATED))

        tree = jax.tree.map(copy, tree)
        return tree if self.mode == "pmap" else self.to_global(tree)

    def to_global(self, tree: Any) -> Any:
        """Converts a replicated tree to arrays over the devices of all hosts, as Orbax requires with several hosts."""
        return multihost_utils.host_local_array_to_global_array(tree, self.mesh, REPLICATED)
