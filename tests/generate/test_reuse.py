import jax.numpy as jnp
import numpy as np

from ola_jax.config import OlaConfig, WhisperConfig
from ola_jax.data.sample import ImagePatches, Sample
from ola_jax.generate.prompts import identity, prompt
from ola_jax.generate.reuse import KeptFeatures, Remains, SlotRemains

SHORT = OlaConfig(whisper=WhisperConfig(num_positions=20), beats=None)  # two tokens in a chunk of audio


def ident(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint8)[:, None]


def test_whole_chunks_of_equal_beginnings_are_used_again() -> None:
    slots = SlotRemains(2, chunk=4)
    slot, cached = slots.take("a", ident(*range(12)))
    assert cached == 0
    slots.give_back(slot, Remains("a", ident(*range(12))))
    for numbers, expected in (
        (range(20), 12),
        (range(13), 12),
        (range(12), 8),  # the last token is read again: it yields the answer
        ([*range(7), 99, *range(8, 20)], 4),
        (range(1, 20), 0),
    ):
        taken, cached = slots.take("a", ident(*numbers))
        assert cached == expected
        if expected:
            assert taken == slot
        slots.give_back(taken, Remains("a", ident(*range(12))))


def test_nothing_is_shared_between_conversations() -> None:
    slots = SlotRemains(1, chunk=2)
    for before in ("a", None):
        slot, _ = slots.take("a", ident(1, 2, 3))
        slots.give_back(slot, Remains("a", ident(1, 2, 3)))
        other = "b" if before else None
        assert slots.take(other, ident(1, 2, 3) if other else None) == (0, 0)
        slots.give_back(0, None)


def test_empty_slots_are_taken_before_remains_and_old_remains_before_new() -> None:
    slots = SlotRemains(3, chunk=2)
    for name in ("a", "b"):
        slot, _ = slots.take(name, ident(1, 2, 3))
        slots.give_back(slot, Remains(name, ident(1, 2)))
    assert slots.take("c", ident(1, 2, 3)) == (2, 0)
    assert slots.take("d", ident(1, 2, 3)) == (0, 0)  # where "a" was
    assert slots.take("b", ident(1, 2, 3)) == (1, 2)
    assert slots.free == 0


def test_features_that_were_not_used_for_longest_go_first() -> None:
    kept = KeptFeatures(6)
    for name in (b"1", b"2"):
        kept.add("a", name, jnp.zeros((3, 1)))
    assert kept.get("a", b"1") is not None
    kept.add("a", b"3", jnp.zeros((2, 1)))
    assert [kept.get("a", name) is not None for name in (b"1", b"2", b"3")] == [True, False, True]
    assert kept.get("b", b"1") is None
    kept.add("a", b"4", jnp.zeros((7, 1)))  # too large to be kept
    assert kept.get("a", b"3") is not None


def sample(image: np.ndarray, grid: tuple[int, int], audio: np.ndarray) -> Sample:
    features = grid[0] * grid[1] // 4 + 2 * len(audio)
    source = np.array([-1, *range(features), features, features + 6, -1], np.int32)
    tokens = np.arange(len(source), dtype=np.int32)
    return Sample("", tokens, tokens, source, (ImagePatches(image, grid),), audio, tokens, {})


def test_media_are_what_their_bytes_shape_and_type_are() -> None:
    rng = np.random.default_rng(0)
    image, audio = rng.integers(0, 256, (16, 12)).astype(np.uint8), rng.normal(size=(1, 8)).astype(np.float32)
    of = lambda *parts: identity(prompt(sample(*parts), SHORT))
    base = of(image, (4, 4), audio)
    np.testing.assert_array_equal(base, of(image.copy(), (4, 4), audio.copy()))
    same = lambda other: (base == other).all(axis=1).tolist()
    text, marks = [True], [True, True, True]
    assert same(of(image, (2, 8), audio)) == [*text, *[False] * 4, *[True] * 2, *marks]
    changed = image.copy()
    changed[3, 3] ^= 1
    assert same(of(changed, (4, 4), audio)) == [*text, *[False] * 4, *[True] * 2, *marks]
    louder = np.nextafter(audio, 9)
    assert same(of(image, (4, 4), louder)) == [*text, *[True] * 4, *[False] * 2, *marks]
    half = audio.view(np.float16).reshape(1, -1)[:, :8]
    assert same(of(image, (4, 4), half)) == [*text, *[True] * 4, *[False] * 2, *marks]


def test_rows_of_the_table_are_marks_then_features() -> None:
    image, audio = np.zeros((16, 12), np.uint8), np.zeros((1, 8), np.float32)
    made = prompt(sample(image, (4, 4), audio), SHORT)
    assert made.source.tolist() == [-1, 7, 8, 9, 10, 11, 12, 0, 6, -1]
    assert [(part.row, part.rows) for part in made.parts] == [(7, 4), (11, 2)]
