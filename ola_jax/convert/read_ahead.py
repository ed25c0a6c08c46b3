"""Reading and writing at the same time."""

import concurrent.futures
from collections.abc import Iterator
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the same items; a thread prepares the next one while one is in use. At most these two exist."""

    def take() -> tuple[Item, ...]:  # empty at the end
        for item in items:
            return (item,)
        return ()

    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        upcoming = pool.submit(take)
        while taken := upcoming.result():
            upcoming = pool.submit(take)
            yield taken[0]
