"""Many requests at once, each answered as if it were alone."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from ola_jax.batch import TEXT
from ola_jax.data.sample import ImagePatches, Sample
from ola_jax.errors import OlaError
from ola_jax.generate import encoding, slots
from ola_jax.generate.engine import (
    Completion,
    Engine,
    EngineConfig,
    Handle,
    Piece,
    QueueFullError,
    Request,
)
from ola_jax.generate.sampling import SamplingConfig, from_generation_config
from ola_jax.models.ola import Ola
from tests import golden, parity, tiny
from tests.generate import small
from tests.released import released

FREE = SamplingConfig(vocab_size=728)  # greedy
SAMPLED = SamplingConfig(temperature=1.0, top_k=40, top_p=0.95, repetition_penalty=1.1, vocab_size=728)
CONFIG = EngineConfig(slots=3, length=128, prefill_chunk=16, steps=3)


def text_sample(text: str) -> Sample:
    return small.processor().sample({"conversations": [{"from": "human", "value": text}]})


def request(text: str = "Hi", sampling: SamplingConfig = FREE, new: int = 20, **how: Any) -> Request:
    return Request(text_sample(text), sampling, new, **how)


def new_engine(config: EngineConfig = CONFIG) -> Engine:
    return Engine(small.MODEL, small.params(), small.processor(), FREE, config)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with new_engine() as engine:
        yield engine


def ids(handle: Handle) -> tuple[int, ...]:
    done = handle.result(100)
    assert done.error is None, done.error
    return done.ids


REQUESTS = [
    request("Hi"),
    request("Who are you? " * 5, SAMPLED, 40, seed=1),
    request("Hi", SAMPLED, 12, seed=2),
    request("What is a long question? " * 8, new=1),
    request("And then?", dataclasses.replace(SAMPLED, temperature=3.0), 30, seed=4294967295),
    request("Hi", dataclasses.replace(FREE, repetition_penalty=1.3), 30),
    request("Hi", SamplingConfig(temperature=1.5, min_p=0.02, vocab_size=728), 30, seed=2),
]


INT8 = {"weights": "int8", "cache": "int8"}


@pytest.mark.parametrize(
    "kinds",
    [
        {"dtype": "float32"},
        {"dtype": "bfloat16"},
        {"dtype": "float32", "weights": "int8"},
        {"dtype": "bfloat16", **INT8, "separate_layers": True},
    ],
)
def test_an_answer_never_depends_on_its_neighbours(kinds: dict[str, str]) -> None:
    config = dataclasses.replace(CONFIG, **kinds)
    with new_engine(config) as engine:
        alone = [ids(engine.submit(each)) for each in REQUESTS]
        assert len({*alone}) == len(alone)
        rng = np.random.default_rng(0)
        for _ in range(3):
            order = rng.permutation(np.repeat(np.arange(len(REQUESTS)), 2)).tolist()
            handles: list[tuple[int | None, Handle]] = []
            for number in order:
                if rng.random() < 0.4:  # another, which goes away
                    handles.append((None, engine.submit(request("Away", SAMPLED, 90, seed=number))))
                handles.append((number, engine.submit(REQUESTS[number])))
            for number, handle in handles:
                if number is None:
                    handle.cancel()
            for number, handle in handles:
                if number is not None:
                    assert ids(handle) == alone[number]
    with new_engine(config) as other:
        assert ids(other.submit(REQUESTS[1])) == alone[1]


def test_an_answer_is_the_same_in_every_group_of_slots() -> None:
    with new_engine(dataclasses.replace(CONFIG, slots=10)) as engine:
        alone = [ids(engine.submit(each)) for each in REQUESTS]
        handles = [engine.submit(each) for each in REQUESTS * 3]
        assert [ids(handle) for handle in handles] == alone * 3


@pytest.mark.parametrize(
    ("count", "on", "rows"), [(1, "cpu", 1), (8, "cpu", 8), (9, "cpu", 5), (32, "cpu", 8), (32, "tpu", 32)]
)
def test_a_call_advances_groups_of_slots_on_cpus_and_all_elsewhere(count: int, on: str, rows: int) -> None:
    assert slots.count_rows(count, on) == rows


@pytest.fixture(scope="module")
def goldens() -> Iterator[Engine]:
    r, processor = released(), parity.processor("infer")
    sampling = from_generation_config(r.generation_config, processor.tokenizer.get_vocab_size())
    sampling = dataclasses.replace(sampling, temperature=0.0)
    config = EngineConfig(slots=4, length=5120, prefill_chunk=128)
    with Engine(Ola(r.config), r.params, processor, sampling, config) as engine:
        yield engine


def golden_request(engine: Engine, name: str, **how: Any) -> Request:
    sample = engine.processor.sample(parity.records(name)[0], root=str(golden.VISIBLE))
    return Request(sample, **{"sampling": engine.sampling, "max_new_tokens": 24} | how)


def test_greedy_tokens_are_the_originals_all_cases_at_once(goldens: Engine) -> None:
    handles = []
    for name in parity.INFER:
        for key, penalty in (("generated_ids", 1.0), ("generated_ids_gencfg", 1.05)):
            sampling = dataclasses.replace(goldens.sampling, repetition_penalty=penalty)
            handles.append((name, key, goldens.submit(golden_request(goldens, name, sampling=sampling))))
    for name, key, handle in handles:
        completion, case = handle.result(600), golden.case(name)
        assert completion.error is None, completion.error
        assert list(completion.ids) == case[key], (name, key)
        if key == "generated_ids":
            # The golden's text was stripped of outer space, after special tokens were kept.
            tokenizer = goldens.processor.tokenizer
            assert completion.text.strip() == tokenizer.decode(case[key]).strip()


def test_seeded_answers_about_media_are_those_given_alone(goldens: Engine) -> None:
    sampling = dataclasses.replace(goldens.sampling, temperature=1.0, top_k=20)
    requests = [
        golden_request(goldens, name, sampling=sampling, seed=seed)
        for seed, name in enumerate(("infer_image", "infer_audio", "infer_two_images", "infer_text"))
    ]
    alone = [ids(goldens.submit(each)) for each in requests]
    together = [goldens.submit(each) for each in reversed(requests)]
    assert [ids(handle) for handle in reversed(together)] == alone


def test_a_later_turn_reads_only_what_is_new_and_answers_the_same(
    goldens: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = encoding.encode
    monkeypatch.setattr(encoding, "encode", lambda *args: (encoded.append(1), encode(*args))[1])
    record = parity.records("infer_image")[0]
    ask = lambda record: goldens.processor.sample(record, root=str(golden.VISIBLE))
    first = goldens.submit(Request(ask(record), goldens.sampling, 24, conversation="a")).result(100)
    views = len(encoded)
    assert (first.cached_tokens, views) == (0, 2)
    turns = [
        *record["conversations"],
        {"from": "gpt", "value": first.text},
        {"from": "human", "value": "So?"},
    ]
    second = Request(ask({**record, "conversations": turns}), goldens.sampling, 24, conversation="a")
    fresh = goldens.submit(dataclasses.replace(second, conversation=None)).result(100)
    assert (fresh.cached_tokens, len(encoded)) == (0, 2 * views)
    others = goldens.submit(dataclasses.replace(second, conversation="b")).result(100)
    assert (others.cached_tokens, len(encoded)) == (0, 3 * views)
    again = goldens.submit(second).result(100)
    whole = (first.prompt_tokens - 1) // 128 * 128
    assert whole >= 256
    assert (again.cached_tokens, len(encoded)) == (whole, 3 * views)
    assert again.ids == others.ids == fresh.ids


@pytest.mark.parametrize("kinds", [{}, {"dtype": "bfloat16", **INT8}])
def test_chunks_that_decoding_wrote_are_read_again(kinds: dict[str, str]) -> None:
    with new_engine(dataclasses.replace(CONFIG, **kinds)) as engine:
        check_reuse(engine)


def check_reuse(engine: Engine) -> None:
    first = engine.submit(request("Hi", new=60, conversation="c")).result(60)
    prompt = text_sample("Hi")
    tokens = np.append(prompt.tokens, np.array(first.ids[:50], np.int32))
    source = np.full(len(tokens), TEXT, np.int32)
    longer = dataclasses.replace(prompt, tokens=tokens, targets=tokens, source=source)
    second = Request(longer, FREE, 12, conversation="c")
    again = engine.submit(second).result(60)
    assert again.cached_tokens == len(prompt.tokens) // 16 * 16
    assert again.ids == engine.submit(dataclasses.replace(second, conversation=None)).result(60).ids


def test_pieces_are_the_answer_and_text_and_ids_agree(engine: Engine) -> None:
    for seed in range(3):
        got: list[Piece | Completion] = []
        hot = dataclasses.replace(SAMPLED, temperature=4.0, stop_ids=tuple(range(0, 700, 19)))
        done = engine.submit(request("Hi", hot, 60, seed=seed), got.append).result(60)
        pieces, last = got[:-1], got[-1]
        assert last == done
        assert tuple(token for piece in pieces for token in piece.ids) == done.ids
        assert "".join(piece.text for piece in pieces) == done.text
        assert done.text == small.processor().tokenizer.decode(list(done.ids))
        assert done.finish_reason == ("stop" if done.ids[-1] in hot.stop_ids else "length")


def test_a_stop_string_ends_an_answer_before_it(engine: Engine) -> None:
    free = engine.submit(request("Hi", SAMPLED, 60)).result(60)
    stop = free.text[20:23]
    place = free.text.index(stop)
    done = engine.submit(request("Hi", SAMPLED, 60, stop=("never", stop))).result(60)
    assert (done.text, done.finish_reason) == (free.text[:place], "stop")
    assert done.ids == free.ids[: len(done.ids)]
    assert stop in small.processor().tokenizer.decode(list(done.ids))
    assert stop not in small.processor().tokenizer.decode(list(done.ids[:-1]))


TINY = Ola(tiny.CONFIG), tiny.params(), small.processor(), FREE


def tiny_request(seed: int) -> Request:
    """A view of an image and a chunk of audio among tokens."""
    rng = np.random.default_rng(seed)
    image = ImagePatches(rng.integers(0, 256, (16, 768)).astype(np.uint8), (4, 4))
    audio = rng.normal(size=(1, tiny.CONFIG.chunk_samples)).astype(np.float32) * 0.1
    features = 4 + tiny.CONFIG.chunk_tokens
    source = np.concatenate([np.full(20, TEXT), np.arange(features + 7), np.full(9, TEXT)]).astype(np.int32)
    tokens = rng.integers(0, 512, len(source)).astype(np.int32)
    sample = Sample("", tokens, tokens, source, (image,), audio, tokens, {})
    return Request(sample, dataclasses.replace(FREE, vocab_size=512), 10)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_cancelling_frees_slots_and_places_in_the_queue(engine: Engine) -> None:
    long = dataclasses.replace(FREE, stop_ids=())
    handles = [engine.submit(request("Hi", long, 100)) for _ in range(5)]
    until(lambda: engine.status().running == 3)
    assert engine.status().waiting == 2
    for handle in (handles[0], handles[4]):
        handle.cancel()
    assert [handles[i].result(60).finish_reason for i in (0, 4)] == ["cancelled", "cancelled"]
    assert [handles[i].result(60).finish_reason for i in (1, 2, 3)] == ["length"] * 3
    handles[1].cancel()  # after its end: nothing happens
    until(lambda: engine.status().running == 0)
    status = engine.status()
    assert (status.waiting, status.cache_tokens_used, status.last_step_age_seconds) == (0, 0, None)
    assert status.finished == {"stop": 0, "length": 3, "cancelled": 2, "error": 0}
    assert status.alive


def test_a_full_queue_refuses_and_takes_again_when_it_has_room() -> None:
    engine = new_engine(dataclasses.replace(CONFIG, slots=1, queue=1))
    handles = [engine.submit(request()) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 requests wait already"):
        engine.submit(request())
    engine.start()
    handles[0].result(60)
    assert engine.submit(request()).result(60).finish_reason == "length"
    engine.close()
    with pytest.raises(OlaError, match="closed"):
        engine.submit(request())


def test_a_listener_that_raises_harms_only_its_own_request(engine: Engine) -> None:
    def broken(event: Piece | Completion) -> None:
        raise BrokenPipeError("gone")

    alone = engine.submit(request("Who?")).result(60)
    bad, good = engine.submit(request(), broken), engine.submit(request("Who?"))
    assert good.result(60).ids == alone.ids
    assert (bad.result(60).finish_reason, bad.result(60).error) == ("error", "BrokenPipeError: gone")
    assert engine.status().alive


def test_an_error_in_the_work_for_one_request_ends_that_one(
    goldens: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too large an image")

    monkeypatch.setattr(encoding, "encode", broken)
    bad = goldens.submit(golden_request(goldens, "infer_image"))
    good = goldens.submit(golden_request(goldens, "infer_text"))
    assert bad.result(60).finish_reason == "error"
    assert "too large an image" in str(bad.result(60).error)
    assert good.result(60).finish_reason == "length"


def test_a_failure_of_the_device_ends_all_and_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine()

    def broken(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: the chip is gone")

    monkeypatch.setattr(slots, "advance", broken)
    handles = [engine.submit(request()) for _ in range(5)]
    engine.start()
    assert {handle.result(60).finish_reason for handle in handles} == {"error"}
    assert not engine.status().alive
    with pytest.raises(OlaError, match="the engine has stopped: JaxRuntimeError: INTERNAL"):
        engine.submit(request())
    engine.close()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"new": 0}, "max_new_tokens is 0"),
        ({"new": 120}, "max_new_tokens is 120; together at most 128"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"stop": ("",)}, "none of them empty"),
        ({"stop": ("a",) * 17}, "at most 16 texts"),
        ({"sampling": dataclasses.replace(FREE, stop_ids=tuple(range(64)))}, "65 ids end the answer"),
    ],
)
def test_what_cannot_be_answered_is_refused(engine: Engine, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(OlaError, match=message):
        engine.submit(request(**bad))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"slots": 0}, "slots is 0"),
        ({"length": 1}, "length is 1"),
        ({"queue": -1}, "queue is -1"),
        ({"tensor": 0}, "tensor is 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(OlaError, match=message):
        EngineConfig(**bad)


def test_after_warming_up_nothing_is_compiled() -> None:
    engine, lines = new_engine(dataclasses.replace(CONFIG, slots=2)), []
    engine.warm_up(lines.append)
    assert lines == [
        "compiling the program for prompts",
        "compiling the program for the first token of answers",
        "compiling the program for answers",
    ]
    programs = (slots.read_chunk, slots.begin, slots.advance)
    before = [program._cache_size() for program in programs]
    handles = [engine.submit(each) for each in REQUESTS]
    engine.close()
    assert {handle.result(0).finish_reason for handle in handles} == {"length"}
    assert [program._cache_size() for program in programs] == before
    assert len(lines) == 3


@pytest.mark.parametrize("kinds", [{}, {**INT8, "separate_layers": True}])
def test_on_a_mesh_answers_are_the_same_and_nothing_is_compiled_twice(kinds: dict[str, str]) -> None:
    alone = Engine(*TINY, EngineConfig(slots=2, length=128, prefill_chunk=32, **kinds))
    split = Engine(*TINY, EngineConfig(slots=2, length=128, prefill_chunk=32, tensor=2, **kinds))
    answers = []
    for engine in (alone, split):
        handles = [engine.submit(tiny_request(seed)) for seed in range(3)]
        before = slots.advance._cache_size()
        engine.close()
        assert slots.advance._cache_size() == before + 1
        answers.append([ids(handle) for handle in handles])
    assert answers[0] == answers[1]
    shards = split._device._cache.k.addressable_shards
    assert {shard.data.shape[3] for shard in shards} == {tiny.CONFIG.llm.num_kv_heads // 2}
    with pytest.raises(OlaError, match="key/value heads cannot be divided by tensor=8"):
        Engine(*TINY, EngineConfig(tensor=8))


def test_closing_finishes_what_came_or_cancels_it() -> None:
    for finish, expected in ((True, "length"), (False, "cancelled")):
        engine, before = new_engine(), threading.active_count()
        handles = [engine.submit(request(new=90)) for _ in range(4)]
        engine.start()
        engine.close(finish)
        assert {handle.result(0).finish_reason for handle in handles} <= {expected, "length"}
        assert handles[-1].result(0).finish_reason == expected
        assert threading.active_count() == before
