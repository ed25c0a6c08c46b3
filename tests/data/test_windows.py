import pytest
from hypothesis import given
from hypothesis import strategies as st

from ola_jax.data.windows import assign_windows, choose_windows

sizes = st.lists(st.integers(1, 30).map(lambda n: 4 * n), max_size=12)


@given(sizes, st.integers(120, 300))
def test_images_do_not_overlap_or_cross(sizes, window_patches):
    places, windows = assign_windows(sizes, window_patches)
    taken = set()
    for size, (window, start) in zip(sizes, places, strict=True):
        assert start + size <= window_patches
        patches = {(window, start + i) for i in range(size)}
        assert not taken & patches
        taken |= patches
    assert {window for window, _ in places} == set(range(windows))


def test_an_image_larger_than_a_window_is_refused():
    with pytest.raises(ValueError, match="an image of 44 patches"):
        assign_windows([44], 40)


@given(st.lists(sizes, min_size=1, max_size=4), st.integers(0, 1000))
def test_chosen_windows_hold_every_row(rows, linear):
    windows, patches = choose_windows(rows, linear)
    assert patches % 4 == 0
    for row in rows:
        if row:
            assert assign_windows(row, patches)[1] <= windows
    if not any(rows):
        assert (windows, patches) == (0, 0)


def test_equal_frames_get_a_window_each_and_views_of_an_image_share_one():
    assert choose_windows([[240] * 64], 100) == (64, 240)
    assert choose_windows([[9000, 576]], 7000) == (1, 9576)
