"""Batches of the training input for tests, and their comparison."""

from ola_jax.batch import Budget
from ola_jax.data import make_train_iterator
from tests.data.made_up import tiny_processor

BUDGET = Budget(tokens=160, windows=2, window_patches=80)


def iterate(
    sources, *, processor=None, seed=0, workers=0, budget=BUDGET, **options
):  # starting processes takes time
    """A training iterator over batches of two rows."""
    processor = processor or tiny_processor()
    options = {"batch_rows": 2, **options}
    return make_train_iterator(sources, processor, budget, seed=seed, workers=workers, **options)


def are_equal(a, b):
    arrays = [(getattr(a.batch, f), getattr(b.batch, f)) for f in a.batch.__dataclass_fields__]
    rest = lambda x: (x.record_ids, x.utilization, x.skipped)
    return all((x == y).all() for x, y in arrays) and rest(a) == rest(b)


def sample_tokens(batches):
    """The token ids of every sample of some batches, in order."""
    found = []
    for batch in batches:
        for tokens, segments in zip(batch.batch.tokens, batch.batch.segments, strict=True):
            for number in range(1, segments.max() + 1):
                found.append(tuple(tokens[segments == number].tolist()))
    return found


def record_ids(batches):
    """The places and ids of the records of some batches, in order."""
    return [record for batch in batches for row in batch.record_ids for record in row]
