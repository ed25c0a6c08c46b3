"""Recommending a budget: the sizes of a row, and rows of a batch, that suit the records of an index."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from ola_jax.config import OlaConfig
from ola_jax.data.index import Index, concatenate
from ola_jax.data.packing import count_windows, pack, too_large
from ola_jax.data.plan import random_order
from ola_jax.data.rows import utilization
from ola_jax.errors import OlaError
from ola_jax.models import ola
from ola_jax.row import Budget, count_limits

SAMPLED = 20_000  # records that each choice is tried with
PATCH_MULTIPLE = 64  # of N


@dataclasses.dataclass(frozen=True)
class BudgetChoice:
    """A budget, and what the records cost with it."""

    budget: Budget
    rows: int  # of a batch
    utilization: dict[str, float]  # mean share of each field of the budget that is used
    samples_per_row: float
    too_large: int  # records of those tried that fit no row
    tokens_per_row: float  # that are used
    cost: float  # FLOPs of a forward pass for each token that is used


def recommend_budgets(
    indices: Sequence[Index],
    config: OlaConfig,
    *,
    devices: int,
    batch_tokens: int,
    row_tokens: Sequence[int] = (4096, 8192, 16_384, 32_768),
    covered: float = 1.0,
) -> list[BudgetChoice]:
    """Budgets for the records of these indices, the cheapest first.

    Each has windows and chunks as the records need them for their tokens. `devices` is the number of devices
    that rows are distributed over, `batch_tokens` the wanted tokens of a batch; `covered` is the share of
    records that must fit. Choices into which fewer fit are left out. Raises OlaError if none is left.
    """
    index = _sample(concatenate(indices))
    if not len(index):
        raise OlaError("there is no record that can be used; expected at least one")
    choices = []
    for budget in dict.fromkeys(_candidates(index, row_tokens, covered)):
        left_out = too_large(index, budget)
        if len(left_out) > (1 - covered) * len(index):
            continue
        choices.append(try_budget(index, budget, config, devices=devices, batch_tokens=batch_tokens))
    if not choices:
        longest = int(np.quantile(index.tokens, covered, method="higher"))
        raise OlaError(
            f"no budget of {' or '.join(map(str, row_tokens))} tokens holds {covered:.1%} of the records; "
            f"one of {longest} tokens would: allow longer rows, or reduce max_length or the sizes of media"
        )
    return sorted(choices, key=lambda choice: choice.cost)


def try_budget(
    index: Index, budget: Budget, config: OlaConfig, *, devices: int, batch_tokens: int
) -> BudgetChoice:
    """Utilization and cost of one budget for the records of an index that fit it."""
    left_out = too_large(index, budget)
    index = index.take(np.setdiff1d(np.arange(len(index)), [*left_out, *index.failures]))
    packed = pack(index, budget)
    count = max(len(packed), 1)
    use = {field: int(index.column(field).sum(dtype=np.int64)) for field in count_limits(budget)}
    use["patches"] = int(index.patches.sum(dtype=np.int64))
    use["windows"] = int(count_windows(index, packed, budget).sum())
    tokens = use["tokens"] / count
    return BudgetChoice(
        budget=budget,
        rows=max(round(batch_tokens / budget.tokens / devices), 1) * devices,
        utilization=utilization([use, *[{}] * (count - 1)], budget),
        samples_per_row=len(index) / count,
        too_large=len(left_out),
        tokens_per_row=tokens,
        cost=sum(ola.flops(config, budget).values()) / max(tokens, 1.0),
    )


def _candidates(index: Index, row_tokens: Sequence[int], covered: float) -> Iterator[Budget]:
    """Budgets whose windows and chunks are in proportion to their tokens as they are in the records."""
    enough = lambda values: int(np.quantile(values, covered, method="higher")) if len(values) else 0
    up = lambda number, multiple: math.ceil(number / multiple) * multiple
    tokens = int(index.tokens.sum(dtype=np.int64))
    most_chunks, most_patches = enough(index.chunks), enough(_patches(index))
    largest = up(int(index.patches.max(initial=0)), PATCH_MULTIPLE)
    windows = sorted({up(largest * share, PATCH_MULTIPLE) for share in (1, 1.5, 2, 4)}) if largest else [0]
    slacks = (1.0, 1.1, 1.25)
    for length, window, slack, chunk_slack in itertools.product(row_tokens, windows, slacks, slacks):
        patches = slack * length * index.patches.sum(dtype=np.int64) / max(tokens, 1)
        chunks = chunk_slack * length * index.chunks.sum(dtype=np.int64) / max(tokens, 1)
        yield Budget(
            tokens=length,
            windows=max(math.ceil(patches / window), math.ceil(most_patches / window)) if window else 0,
            window_patches=window,
            audio_chunks=max(math.ceil(chunks), most_chunks),
        )


def _patches(index: Index) -> Int[np.ndarray, "n"]:
    """Patches of each record."""
    totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(index.patches, dtype=np.int64)])
    return totals[index.image_offsets[1:]] - totals[index.image_offsets[:-1]]


def _sample(index: Index) -> Index:
    """At most SAMPLED usable records, at random."""
    usable = np.setdiff1d(np.arange(len(index)), [*index.failures])
    return index.take(usable[random_order(len(usable), seed=0, kind=0, number=0)[:SAMPLED]])
