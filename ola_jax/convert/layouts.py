"""Changes of axes between PyTorch's tensors and ours, and a fast copy between the two orders."""

import dataclasses

import numpy as np

from ola_jax.typing import HostArray, Shaped

BLOCK_ROWS = 128  # of a transposed copy: the cache lines of a block stay in the cache


@dataclasses.dataclass(frozen=True)
class Permute:
    """Axes in another order."""

    axes: tuple[int, ...]

    def to_jax(self, tensor: Shaped[HostArray, "..."]) -> Shaped[HostArray, "..."]:
        """Converts PyTorch's axes to ours."""
        return tensor.transpose(self.axes)

    def to_torch(self, tensor: Shaped[HostArray, "..."]) -> Shaped[HostArray, "..."]:
        """Converts our axes to PyTorch's."""
        return tensor.transpose(np.argsort(self.axes))


@dataclasses.dataclass(frozen=True)
class Squeeze:
    """Axes of length 1 that only PyTorch's tensor has."""

    axes: tuple[int, ...]

    def to_jax(self, tensor: Shaped[HostArray, "..."]) -> Shaped[HostArray, "..."]:
        """Converts PyTorch's axes to ours."""
        return tensor.squeeze(self.axes)

    def to_torch(self, tensor: Shaped[HostArray, "..."]) -> Shaped[HostArray, "..."]:
        """Converts our axes to PyTorch's."""
        return np.expand_dims(tensor, self.axes)


@dataclasses.dataclass(frozen=True)
class PatchKernel:
    """A convolution over disjoint patches: [out, channels, P, P] to a matrix [P * P * channels, out]."""

    channels: int

    def to_jax(self, tensor: Shaped[HostArray, "out c P P"]) -> Shaped[HostArray, "P*P*c out"]:
        """Converts PyTorch's axes to ours."""
        return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])

    def to_torch(self, tensor: Shaped[HostArray, "cells out"]) -> Shaped[HostArray, "out c P P"]:
        """Converts our axes to PyTorch's."""
        side = round((tensor.shape[0] / self.channels) ** 0.5)
        return tensor.reshape(side, side, self.channels, -1).transpose(3, 2, 0, 1)


Layout = Permute | Squeeze | PatchKernel
LINEAR = Permute((1, 0))  # [out, in] to [in, out]
CONV1D = Permute((2, 1, 0))  # [out, in, taps] to [taps, in, out]


def copy(values: Shaped[HostArray, "..."], out: Shaped[HostArray, "..."]) -> None:
    """Assigns out[...] = values, three times as fast if one of them is a transposed matrix."""
    if not out.flags.c_contiguous:
        values, out = values.T, out.T
    if values.dtype == out.dtype and values.dtype.itemsize == 2:
        values, out = values.view(np.uint16), out.view(np.uint16)  # numpy copies its own types faster
    if values.ndim != 2 or values.flags.c_contiguous:
        out[...] = values
        return
    for start in range(0, values.shape[1], BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        out[:, block] = values[:, block]
