import threading
from collections.abc import Iterator

import pytest

from ola_jax.convert.read_ahead import read_ahead


def test_items_come_in_order_whatever_their_value() -> None:
    assert list(read_ahead(iter([3, None, 0, ()]))) == [3, None, 0, ()]
    assert list(read_ahead(iter([]))) == []


def test_the_next_item_is_made_while_one_is_in_use() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    for item in read_ahead(items()):
        if item == 1:
            assert second.wait(timeout=60)


def test_errors_reach_the_consumer_after_the_items_before_them() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("damaged")

    found = read_ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(found)
