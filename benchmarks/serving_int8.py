"""The error of int8 weights and of an int8 cache, on the inputs of the goldens.

    python benchmarks/serving_int8.py

The goldens' model is tiny and has random weights, on which int8 is harder than on trained ones. Logits are
compared with those of float32: norm of the difference over the norm, and how often the likeliest token is the
same; answers are greedy, 24 tokens each.
"""

import dataclasses
import pathlib
import sys

import jax
import numpy as np
import rich.console
import rich.table

from ola_jax.generate.engine import Engine, EngineConfig, Request
from ola_jax.generate.sampling import from_generation_config
from ola_jax.models.ola import Ola
from ola_jax.models.quantization import quantize_weights

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests import golden, parity
from tests.released import released

KINDS: tuple[tuple[str | None, str | None], ...] = (
    (None, None),
    ("int8", None),
    (None, "int8"),
    ("int8", "int8"),
)


def prefix(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> int:
    """The number of first tokens that are equal."""
    a, b = pair
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def main() -> None:
    """Measure and print."""
    r, processor = released(), parity.processor("infer")
    logits = jax.jit(lambda params, batch: Ola(r.config).apply({"params": params}, batch))
    errors, same, positions = [], 0, 0
    for name in parity.INFER:
        batch = processor(parity.records(name), root=str(golden.VISIBLE))
        used = np.asarray(batch.segments) > 0
        exact, near = (np.asarray(logits(p, batch))[used] for p in (r.params, quantize_weights(r.params)))
        errors.append(np.linalg.norm(near - exact) / np.linalg.norm(exact))
        same += int((near.argmax(-1) == exact.argmax(-1)).sum())
        positions += len(exact)
    print(
        f"int8 weights, {positions} positions: relative error of logits {np.mean(errors):.4f}, at most "
        f"{max(errors):.4f}; likeliest token the same {100 * same / positions:.1f} %"
    )
    sampling = from_generation_config(r.generation_config, processor.tokenizer.get_vocab_size())
    sampling = dataclasses.replace(sampling, temperature=0.0)
    samples = [processor.sample(parity.records(name)[0], root=str(golden.VISIBLE)) for name in parity.INFER]
    table = rich.table.Table("weights", "cache", "answers equal to float32's", "first tokens equal, of 24")
    exact_ids: list[tuple[int, ...]] = []
    for weights, cache in KINDS:
        config = EngineConfig(slots=4, length=5120, prefill_chunk=128, weights=weights, cache=cache)
        with Engine(Ola(r.config), r.params, processor, sampling, config) as engine:
            handles = [engine.submit(Request(sample, sampling, 24)) for sample in samples]
            ids = [handle.result().ids for handle in handles]
        exact_ids = exact_ids or ids
        pairs = list(zip(ids, exact_ids, strict=True))
        equal = f"{sum(a == b for a, b in pairs)} of {len(ids)}"
        first = f"{np.mean([prefix(pair) for pair in pairs]):.1f}"
        table.add_row(weights or "float32", cache or "float32", equal, first)
    rich.console.Console().print(table)


if __name__ == "__main__":
    main()
