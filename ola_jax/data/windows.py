"""Assigning images to attention windows of equal size, so that no image crosses a window."""

import math
from collections.abc import Sequence

from ola_jax.row import POOLED


def assign_windows(sizes: Sequence[int], window_patches: int) -> tuple[list[tuple[int, int]], int]:
    """The window of each image and its first patch there, and the number of windows used.

    First fit, largest image first (ties in order). `sizes` are in patches; none may be larger than
    a window (ValueError).
    """
    starts: list[tuple[int, int]] = [(0, 0)] * len(sizes)
    used: list[int] = []  # patches of each window
    for image in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = sizes[image]
        if size > window_patches:
            raise ValueError(f"an image of {size} patches does not fit a window of {window_patches}")
        window = next((w for w, patches in enumerate(used) if patches + size <= window_patches), len(used))
        if window == len(used):
            used.append(0)
        starts[image] = (window, used[window])
        used[window] += size
    return starts, len(used)


def choose_windows(
    rows: Sequence[Sequence[int]], linear_patches: int, multiple: int = POOLED
) -> tuple[int, int]:
    """Windows W and patches N of a window that hold the images of every row at the least cost.

    A patch costs its own linear work, equal to attention over `linear_patches` patches, and
    attention over its full window: W * N * (linear_patches + N). `rows` are the sizes of the images
    of each row, in patches. (0, 0) if there are none.
    """
    largest = max((size for row in rows for size in row), default=0)
    if not largest:
        return 0, 0
    most = max(sum(row) for row in rows)
    wanted = {largest, largest * 3 // 2, largest * 2, largest * 4, *(most // count for count in range(1, 9))}
    round_up = lambda n: math.ceil(n / multiple) * multiple
    candidates = sorted({round_up(n) for n in wanted if largest <= n <= most} | {round_up(largest)})
    layouts = [(max(assign_windows(row, n)[1] for row in rows), n) for n in candidates]
    return min(layouts, key=lambda layout: layout[0] * layout[1] * (linear_patches + layout[1]))
