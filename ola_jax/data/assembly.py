"""Batches from rows, and from samples."""

from collections.abc import Sequence

import numpy as np

from ola_jax.batch import OlaBatch, padding
from ola_jax.config import OlaConfig
from ola_jax.data.rows import RowFields, assemble_row, misfit, needs
from ola_jax.data.sample import Sample
from ola_jax.row import Budget


def assemble(rows: Sequence[Sequence[Sample]], budget: Budget, config: OlaConfig) -> OlaBatch:
    """A batch (numpy leaves) with these samples in its rows, in order; an empty row is all padding.

    Raises ValueError for a row that does not fit the budget.
    """
    made = []
    for number, row in enumerate(rows):
        sizes = [needs(sample) for sample in row]
        if reason := misfit(sizes, budget):
            raise ValueError(f"row {number}: {reason}")
        made.append(assemble_row(row, sizes, budget, config))
    return join_rows(made, budget, config)


def join_rows(rows: Sequence[RowFields], budget: Budget, config: OlaConfig) -> OlaBatch:
    """A batch (numpy leaves) of these rows; a field that one lacks is padding.

    Audio may be of fewer chunks than a row has, and in whole numbers of 16 bits.
    """
    batch = padding(config, len(rows), budget)
    for number, row in enumerate(rows):
        for name, value in row.items():
            field = getattr(batch, name)[number]
            if name == "audio" and value.dtype == np.int16:
                np.multiply(value, np.float32(1 / 2**15), out=field[: len(value)])
            else:
                field[: len(value)] = value
    return batch
