"""Questions to a model: alone, and in a conversation."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
import soundfile

import ola_jax
from ola_jax import checkpoint
from ola_jax.errors import OlaError
from ola_jax.generate import assistant as module
from ola_jax.generate import slots
from ola_jax.generate.assistant import Assistant
from ola_jax.generate.conversation import Question, conversation_record
from ola_jax.generate.engine import Request
from ola_jax.generate.sampling import from_generation_config
from ola_jax.models.ola import Ola
from tests import golden, parity
from tests.released import released

INPUTS = golden.VISIBLE / "inputs"
OPTIONS = {"temperature": 0.0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def assistant() -> Iterator[Assistant]:
    """The golden model."""
    r, processor = released(), parity.processor("infer")
    sampling = from_generation_config(r.generation_config, processor.tokenizer.get_vocab_size())
    assistant = Assistant(Ola(r.config), lambda: r.params, processor, sampling)
    yield assistant
    assistant.close()


def ids(assistant: Assistant, record: dict[str, Any]) -> list[int]:
    """The answer to a record, of which nothing was read before."""
    sampling = dataclasses.replace(assistant.sampling, temperature=0.0)
    done = assistant.engine.answer(Request(assistant.processor.sample(record), sampling, 12))
    assert done.cached_tokens == 0
    return list(done.ids)


def test_an_answer_is_the_originals(assistant: Assistant) -> None:
    case = golden.case("infer_image_gray")
    options = {"temperature": 0.0, "max_new_tokens": 24}
    reply = assistant.ask(case["cli"]["text"], images=[INPUTS / "img_gray.png"], **options)
    assert list(reply.ids) == case["generated_ids_gencfg"]
    expected = golden.arrays("cases/infer_image_gray.npz")
    assert list(reply.prompt_ids) == expected["input_ids"][0].tolist()
    assert sum(reply.tokens.values()) == int(expected["merged_len"])
    assert str(reply) == reply.text == assistant.processor.tokenizer.decode(list(reply.ids)).strip()
    assert assistant.ask(case["cli"]["text"], INPUTS / "img_gray.png", **options).ids == reply.ids


def test_a_conversation_is_the_record_with_all_turns(assistant: Assistant) -> None:
    """The media of each turn stand where they were asked about."""
    gray, rgb, sound = (str(INPUTS / name) for name in ("img_gray.png", "img_rgb.png", "a_short.wav"))
    chat = assistant.chat()
    first = chat.ask("What is this?", images=[gray], **OPTIONS)
    second = chat.ask("And what do you hear?", audio=sound, **OPTIONS)
    third = chat.ask("And that?", images=[rgb, gray], **OPTIONS)
    messages = [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": first.text},
        {"from": "human", "value": "<speech>\nAnd what do you hear?"},
        {"from": "gpt", "value": second.text},
        {"from": "human", "value": "<image>\n<image>\nAnd that?"},
    ]
    assert list(first.ids) == ids(assistant, {"image": [gray], "conversations": messages[:1]})
    heard = {"image": [gray], "audio": sound, "conversations": messages[:3]}
    assert list(second.ids) == ids(assistant, heard)
    seen = {"image": [gray, rgb, gray], "audio": sound, "conversations": messages}
    assert list(third.ids) == ids(assistant, seen)
    marks = [i for i in third.prompt_ids if i < 0]
    assert marks == [-300, -200, -300, -300]
    assert [reply for _, reply in chat.turns] == [first, second, third]


def test_a_video_is_asked_about_again(assistant: Assistant) -> None:
    video = next(INPUTS.glob("*.mp4"))
    chat = assistant.chat()
    chat.ask("What happens?", video=video, **OPTIONS)
    again = chat.ask("And then?", **OPTIONS)
    assert again.tokens["video"] > 0
    with pytest.raises(OlaError, match=f"video: a chat has one video, and this one has '.*{video.name}'"):
        chat.ask("And here?", video=video, **OPTIONS)
    assert len(chat.turns) == 2  # as it was


def question(**media: Any) -> Question:
    return Question("What?", **media)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            question(video="a.mp4", sound=False),
            question(video="b.mp4", sound=False),
            "video: a chat has one video, and this one has 'a.mp4'; start a new chat",
        ),
        (question(audio="a.wav"), question(audio="b.wav"), "audio: a chat has one sound.* 'a.wav'; start a"),
        (question(video="a.mp4"), question(audio="b.wav"), "audio: .* that of 'a.mp4'; .* sound=False"),
        (question(audio="b.wav"), question(video="a.mp4"), "video: .* 'b.wav'; .* sound=False"),
        (question(images=("a.png",)), question(video="a.mp4"), "video: a chat with images"),
        (question(video="a.mp4"), question(images=("a.png",)), "images: a chat with a video"),
    ],
)
def test_media_that_no_record_can_hold_are_refused(first: Question, second: Question, expected: str) -> None:
    with pytest.raises(OlaError, match=expected):
        conversation_record([first, question(), second], ["That.", "This."])


def test_a_video_without_its_sound_leaves_room_for_another() -> None:
    silent = question(video="a.mp4", sound=False)
    for order in ([silent, question(audio="b.wav")], [question(audio="b.wav"), silent]):
        record = conversation_record(order, ["That."])
        assert (record["video"], record["audio"]) == ("a.mp4", "b.wav")
        text = "".join(message["value"] for message in record["conversations"])
        assert (text.count("<image>"), text.count("<speech>")) == (1, 1)


def test_one_question_is_the_record_of_the_command_line() -> None:
    for alone in (
        question(),
        question(images=("a.png", "b.png")),
        question(video="a.mp4"),
        question(video="a.mp4", audio="b.wav"),
        Question(images=("a.png",), audio="b.wav"),
    ):
        assert conversation_record([alone], []) == alone.record()


def test_the_checkpoint_is_read_once_and_equal_shapes_are_compiled_once(
    small_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    load_weights = module.load_weights
    read = lambda *args: (reads.append(args[0]), load_weights(*args))[1]
    monkeypatch.setattr(module, "load_weights", read)
    compiled: list[str] = []
    assistant = ola_jax.Assistant.from_pretrained(small_dir, report=compiled.append)
    assert assistant.params is assistant.params
    one = assistant.ask("Hi", max_new_tokens=7)
    assert len(compiled) == 3
    sizes = lambda: [program._cache_size() for program in (slots.read_chunk, slots.begin, slots.advance)]
    before = sizes()
    pieces: list[str] = []
    other = assistant.ask(
        "Who are you?" * 30, max_new_tokens=9, seed=3, temperature=3.0, stream=pieces.append
    )
    assert (sizes(), len(compiled)) == (before, 3)
    assert reads == [small_dir]
    assert "".join(pieces).strip() == other.text
    assert one.ids != other.ids
    assistant.close()
    assert assistant.ask("Hi", max_new_tokens=7).ids == one.ids  # by a new engine
    assistant.close()
    half = Assistant.from_pretrained(small_dir, dtype="bfloat16")
    assert len(half.ask("Hi", max_new_tokens=7).ids) == len(one.ids)
    half.close()


def test_a_conversation_reads_again_only_what_is_not_in_the_cache(small_dir: pathlib.Path) -> None:
    assistant = Assistant.from_pretrained(small_dir)
    options = {"max_new_tokens": 20, "temperature": 2.0}
    chat = assistant.chat()
    first = chat.ask("What is a long question? " * 40, **options)
    second = chat.ask("And what else?", **options)
    assert (first.cached_tokens, second.cached_tokens) == (0, len(first.prompt_ids) // 256 * 256)
    assert second.cached_tokens
    messages = [
        {"from": "human", "value": "What is a long question? " * 40},
        {"from": "gpt", "value": first.text},
        {"from": "human", "value": "And what else?"},
    ]
    sampling = dataclasses.replace(assistant.sampling, temperature=2.0)
    alone = Request(assistant.processor.sample({"conversations": messages}), sampling, 20)
    assert assistant.engine.answer(alone).ids == second.ids
    assistant.close()


def test_a_longer_question_gets_a_larger_cache_and_the_same_answer(small_dir: pathlib.Path) -> None:
    assistant = Assistant.from_pretrained(small_dir)
    short = assistant.ask("Hi", max_new_tokens=7)
    assert len(assistant.ask("Hi", max_new_tokens=5000, stop="\ufffd").ids) < 5000
    assert assistant.ask("Hi", max_new_tokens=7).ids == short.ids
    with pytest.raises(OlaError, match="together at most 32768"):
        assistant.ask("Hi", max_new_tokens=40_000)
    assistant.close()


def test_what_the_stream_raises_ends_the_answer_and_no_other(small_dir: pathlib.Path) -> None:
    assistant = Assistant.from_pretrained(small_dir)
    expected = assistant.ask("Hi", max_new_tokens=7)

    def broken(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        assistant.ask("Hi", max_new_tokens=4000, stream=broken)
    assert assistant.ask("Hi", max_new_tokens=7).ids == expected.ids
    assistant.close()


def test_too_little_memory_is_one_line(small_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.\nmore")

    assistant = Assistant.from_pretrained(small_dir)
    for program in ("empty_slots", "read_chunk"):
        with monkeypatch.context() as patch:
            patch.setattr(slots, program, full)
            with pytest.raises(OlaError, match="too much for the device's memory") as caught:
                assistant.ask("Hi")
        assert "\n" not in str(caught.value)
        assert assistant.ask("Hi", max_new_tokens=3).ids
        assistant.close()


def test_options_of_sampling_take_the_place_of_the_checkpoints(small_dir: pathlib.Path) -> None:
    assistant = Assistant.from_pretrained(small_dir)  # greedy
    ask = lambda **options: assistant.ask("Hi", max_new_tokens=8, **options).ids
    assert ask() == ask(seed=1) == ask(temperature=0)
    assert ask(temperature=5.0) == ask(temperature=5.0)
    assert ask(temperature=5.0) != ask(temperature=5.0, seed=1)
    assert ask(temperature=5.0, top_k=1) == ask() == ask(temperature=5.0, min_p=1.0)
    free = assistant.ask("Hi", max_new_tokens=8).text
    assert (
        assistant.ask("Hi", max_new_tokens=8, stop=["no", free[3:5]]).text
        == free[: free.index(free[3:5])].strip()
    )
    assistant.close()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "the prompt is empty: give text, images, video or audio"),
        ({"text": "a", "images": ["a.png"], "video": "b.mp4"}, "video and images exclude each other"),
        ({"text": "a", "images": ["a.png"], "audio": "b.wav"}, "leave out text, or leave out audio"),
        ({"text": "a", "max_new_tokens": 0}, "max_new_tokens is 0; it must be 1 or more"),
        ({"text": "a", "seed": -1}, "seed is -1"),
        ({"text": "a", "temperature": -1.0}, "temperature is -1"),
        ({"text": "a\udcff"}, "text: not valid UTF-8 at character 2"),
        ({"text": "a", "images": ["none.png"]}, "'image'.*vision"),
        ({"text": "<image> What?"}, "'<image>' in the text and no image"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_no_parameter_is_read(
    small_dir: pathlib.Path, asked: dict[str, Any], expected: str
) -> None:
    assistant = Assistant.from_pretrained(small_dir)
    with pytest.raises(OlaError, match=expected):
        assistant.ask(**asked)
    assert "params" not in vars(assistant)


def test_media_are_decoded_in_a_process_that_is_kept(assistant: Assistant, tmp_path: pathlib.Path) -> None:
    r, directory = released(), tmp_path / "model"
    checkpoint.save(
        directory,
        config=r.config,
        processor_config=r.processor_config,
        params=r.params,
        tokenizer_dir=golden.VISIBLE / "hf",
        generation_config=r.generation_config,
    )
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(8000) / 9).astype(np.float32), 16000)
    stored = Assistant.from_pretrained(directory)
    expected = assistant.ask("What?", audio=tmp_path / "a.wav", **OPTIONS)
    assert stored.ask("What?", audio=tmp_path / "a.wav", **OPTIONS).ids == expected.ids
    workers = set(stored.processor.decode._pool._all)
    stored.ask("What?", audio=tmp_path / "a.wav", **OPTIONS)
    assert len(workers) == 1
    assert stored.processor.decode._pool._all == workers
