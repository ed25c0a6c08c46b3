"""Records and files of records damaged at random: the result is a sample or an OlaError of one line."""

import copy
import itertools
import json
import logging
import random

import numpy as np
import pytest
import soundfile
from PIL import Image

from ola_jax.batch import IGNORE, Budget
from ola_jax.data import Source, make_train_iterator, read_records
from ola_jax.data.records import parse_record
from ola_jax.errors import MAX_MESSAGE, OlaError
from tests.data.clips import write_video
from tests.data.made_up import conversation, tiny_processor

BUDGET = Budget(tokens=256, windows=8, window_patches=80, audio_chunks=4)


PATCH = {"patch": "patch", "start_num": 0, "size": 70}
GOOD = [
    conversation("a", "b", "c", "d", id="text"),
    conversation("<image>\nWhat?", "A picture.", id=7, image="i.png"),
    conversation("<image>\n<image>\nx", "y", "z", image=["i.png", {"img_path": "i.png"}]),
    conversation("<speech><image>\nx", "y", id="v", video="v.mp4"),
    conversation("<image>\nx", "y", id="f", video=["i.png", "i.png"]),
    conversation("x <speech>", "y", id="a", audio="a.wav"),
    conversation("<speech><image>\n", "y", id="va", video="v.mp4", audio="a.wav"),
    conversation("-", "y", id="q", audio_q="a.wav", text_q="Q: <speech>"),
    conversation(
        "-",
        "y",
        id=["iq"],
        image=["i.png", "i.png"],
        audio_q="a.wav",
        text_q="<image>\r\n<image>\r\nQ: <speech>\r\n",
    ),
    conversation("<image>\nx", "y", id="p", image=PATCH),
]


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


# fmt: off
TEXTS = [
    "", " ", "\n", "\ud83d", "a\udfffb", "\0", "\x1b[31m", "\u2028", "\x85\x0c", "\r\n", "é😀", "x" * 3000,
    "<image>", "<speech>\n", "<video>", "<|im_end|>", "<|im_start|>user\n", "a/b\nc", "i.png", "a.wav",
    "v.mp4", "../", "http://x/y.png", "data:image/png;base64,AAAA", "p" * 300, "patch", ".", "/", "no.png",
    "human", "gpt",
]
VALUES = [
    None, True, False, 0, -1, 7, 2**70, 10**4000, 1.5, float("nan"), float("inf"), [], {}, [[]], [None],
    nested(400), {"img_path": []}, {"img_path": ["i.png", None]}, {"patch": "patch"},
    {"patch": "patch", "size": [], "start_num": 0}, {"patch": "patch", "start_num": -5, "size": 10**12},
    {"patch": 3, "start_num": "x", "size": {}}, ["x"] * 5000, PATCH, [PATCH],
    {"from": ["human"], "value": "x"}, {"from": "gpt"}, {"value": None, "from": "human"}, {"": ""},
]
KEYS = [
    "id", "image", "video", "audio", "audio_q", "text_q", "conversations", "from", "value", "img_path",
    "patch", "images", "IMAGE", "image_path", "size", "start_num", "image_encoding", "",
    "\ud83d", "a\nb", "k" * 999,
]
JUNK = [b"", b"\0", b"\xff", b"\n", b"[" * 3000, b'"', b"}", b"]", b"\xef\xbb\xbf", b"\r", b"9" * 5000]
# fmt: on


def places(value, found=()):
    """All containers within a value, each with a key or an index of its."""
    if isinstance(value, dict | list) and len(found) < 4:
        items = value.items() if isinstance(value, dict) else enumerate(value[:8])
        for key, item in items:
            yield value, key
            yield from places(item, (*found, key))


def damaged(record, random):
    """The record after one to three changes."""
    record = copy.deepcopy(record)
    for _ in range(random.randint(1, 3)):
        if not (at := list(itertools.islice(places(record), 99))):
            return record
        holder, key = random.choice(at)
        old, kind = holder[key], random.randrange(8)
        if kind <= 1:
            holder[key] = copy.deepcopy(random.choice([*VALUES, *TEXTS]))
        elif kind == 2 and isinstance(old, str):
            cut = random.randint(0, len(old))
            holder[key] = old[:cut] + random.choice(TEXTS) + old[cut:]
        elif kind == 3 and isinstance(old, str):
            holder[key] = old * random.choice([0, 2, 50])
        elif kind == 4:
            holder[key] = random.choice([[old], {"img_path": old}, {random.choice(KEYS): old}, [old, old]])
        elif kind == 5 and isinstance(holder, dict):
            holder[random.choice(KEYS)] = holder.pop(key)
        elif kind == 6 and isinstance(holder, dict):
            holder[random.choice(KEYS)] = copy.deepcopy(random.choice([*VALUES, *TEXTS]))
        elif isinstance(holder, list):
            random.shuffle(holder) if kind == 7 else holder.pop(key)
        else:
            del holder[key]
    return record


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    Image.new("RGB", (9, 7), (200, 3, 7)).save(folder / "i.png")
    soundfile.write(folder / "a.wav", np.full(3000, 0.25), 16_000)
    write_video(folder / "v.mp4", frames=3)
    (folder / "patch").write_bytes((folder / "i.png").read_bytes())
    PATCH["size"] = (folder / "i.png").stat().st_size
    return folder


def check_message(error):
    message = str(error)
    assert 0 < len(message) <= MAX_MESSAGE
    assert message.isprintable()
    message.encode()


def becomes_sample(record, processor, root, random):
    """Returns True if it became a sample."""
    options = {"training": random.random() < 0.7, "marks_are_text": random.random() < 0.3}
    try:
        parse_record(record, **options)
    except OlaError as error:
        check_message(error)
    try:
        sample = processor.sample(record, root, **options)
    except OlaError as error:
        check_message(error)
        return False
    assert sample.id.isprintable()
    assert not options["training"] or (sample.targets != IGNORE).any()
    return True


def fuzz_records(folder, count, seed):
    rng, processor = random.Random(seed), tiny_processor(max_length=1000)
    good = [
        becomes_sample(damaged(GOOD[i % len(GOOD)], rng), processor, str(folder), rng) for i in range(count)
    ]
    assert count / 10 < sum(good) < count  # damaged, and not beyond recognition


def fuzz_files(folder, count, seed):
    rng, processor = random.Random(seed), tiny_processor(max_length=1000)
    for number in range(count):
        chosen = [rng.choice(GOOD) for _ in range(4)]
        chosen += [damaged(rng.choice(GOOD), rng) for _ in range(2)]
        rng.shuffle(chosen)
        name = rng.choice(["r.json", "r.jsonl"])
        end = rng.choice(["\n", "\r\n", "\n\n"])
        dump = lambda x: json.dumps(x, ensure_ascii=rng.random() < 0.5)
        text = dump(chosen) if name == "r.json" else end.join(map(dump, chosen))
        data = bytearray(text.encode(errors="surrogatepass"))
        for _ in range(rng.choice([0, 0, 1, 2, 5])):
            cut = rng.randrange(len(data))
            data[cut : cut + rng.choice([0, 1, 9])] = rng.choice(JUNK)
        path = folder / f"{seed}-{number}-{name}"
        path.write_bytes(bytes(data))
        try:
            assert all(isinstance(record, dict) for record in read_records(path))
        except OlaError as error:
            check_message(error)
        try:
            source = Source(str(path), str(folder), marks_are_text=rng.random() < 0.3)
            iterator = make_train_iterator(
                [source],
                processor,
                BUDGET,
                batch_rows=2,
                seed=0,
                max_skipped=6,
                epochs=2,
                workers=0,
                prefetch=0,
            )
            batches = list(iterator)
            json.dumps(iterator.get_state())
            assert all((batch.batch.targets != IGNORE).any() for batch in batches)
        except OlaError as error:
            check_message(error)


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)


def test_undamaged_records_become_samples(folder):
    for record in GOOD:
        assert tiny_processor().sample(record, str(folder), training=True).id == str(record.get("id", ""))


@pytest.mark.parametrize("seed", range(2))
def test_damaged_records_become_samples_or_errors_of_one_line(folder, seed):
    fuzz_records(folder, 120, seed)


def test_damaged_files_become_batches_or_errors_of_one_line(folder):
    fuzz_files(folder, 25, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_damaged_records(folder, seed):
    fuzz_records(folder, 500, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 15))
def test_many_damaged_files(folder, seed):
    fuzz_files(folder, 200, seed)
