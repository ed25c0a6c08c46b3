import json

import pytest

from ola_jax.batch import IGNORE
from ola_jax.data.chat import (
    AUDIO_ID,
    IMAGE_ID,
    add_newline_after_audio,
    encode_prompt,
    encode_training,
    move_placeholders_first,
)
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.errors import OlaError
from tests.golden import VISIBLE

TOKENIZER = load_tokenizer(VISIBLE / "hf")


def ids(text):
    return TOKENIZER.encode(text, add_special_tokens=False).ids


START, END, NEWLINE = ids("<|im_start|>")[0], ids("<|im_end|>")[0], ids("\n")[0]


def message(text, has_image=True, has_audio=True):
    """The ids between the head and the end of a lone human message."""
    turns = [("human", text)]
    made = encode_training(turns, TOKENIZER, "s", has_image=has_image, has_audio=has_audio)
    head = len([*ids("<|im_start|>system\ns<|im_end|>\n"), *ids("<|im_start|>user"), NEWLINE])
    return made.ids[head:-2].tolist()


@pytest.mark.parametrize("case", json.loads((VISIBLE / "tokenizer_cases.json").read_text()))
def test_the_tokenizer_is_the_originals(case):
    assert ids(case["text"]) == case["ids"]


def test_a_tokenizer_of_vocabulary_and_merges_alone_gives_the_same_ids(tmp_path):
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((VISIBLE / "hf" / name).read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    for case in json.loads((VISIBLE / "tokenizer_cases.json").read_text()):
        assert tokenizer.encode(case["text"], add_special_tokens=False).ids == case["ids"]


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("What? <image>", "<image>\nWhat?"),
        ("a <image> b <image>\nc", "<image>\n<image>\na  b \nc"),
        ("Listen. <speech>", "<speech>\nListen."),
        ("<image>\nx <speech> y", "<speech><image>\nx  y"),
        ("<image>\n<image>\nx <speech> y", "<speech><image>\n<image>\nx  y"),
        ("  no media ", "  no media "),
    ],
)
def test_training_moves_placeholders_to_the_front(text, moved):
    assert move_placeholders_first(text) == moved


def test_placeholders_without_media_stay_where_they_are():
    assert (
        move_placeholders_first("a <speech> b <image>", has_image=True, has_audio=False)
        == "<image>\na <speech> b"
    )
    assert (
        move_placeholders_first("a <speech> b <image>", has_image=False, has_audio=True)
        == "<speech>\na  b <image>"
    )
    assert move_placeholders_first(" a <speech> ", has_image=True, has_audio=False) == " a <speech> "


def test_a_spoken_question_only_gets_its_newline():
    assert add_newline_after_audio("<image>\nasked: <speech>") == "<image>\nasked: <speech>\n"
    assert add_newline_after_audio("<speech>\nx") == "<speech>\nx"


def test_audio_in_front_is_followed_by_two_newlines_in_training():
    assert message("<speech>\nX") == [AUDIO_ID, NEWLINE, *ids("\nX")]
    assert message("<speech><image>\nX") == [AUDIO_ID, NEWLINE, IMAGE_ID, NEWLINE, *ids("\nX")]
    assert message("<image>\nX") == [IMAGE_ID, NEWLINE, *ids("X")]
    assert message("<image>\nasked: <speech>\n") == [IMAGE_ID, NEWLINE, *ids("asked: "), AUDIO_ID, NEWLINE]


def test_all_of_several_images_and_audio_are_found():
    first = [AUDIO_ID, NEWLINE, IMAGE_ID, NEWLINE, *ids("\n"), IMAGE_ID, NEWLINE, *ids("X")]
    assert message("<speech><image>\n<image>\nX") == first
    last = [IMAGE_ID, NEWLINE, IMAGE_ID, NEWLINE, *ids("ask "), AUDIO_ID, NEWLINE]
    assert message("<image>\n<image>\nask <speech>\n") == last
    between = [IMAGE_ID, NEWLINE, *ids("X "), AUDIO_ID, NEWLINE, IMAGE_ID, NEWLINE, *ids("Y")]
    assert message("<image>\nX <speech><image>\nY") == between


@pytest.mark.parametrize(
    "text", ["<image> X", "<image>\n<image> X", "<speech>\n <speech>X", "<speech> <image>X"]
)
def test_a_placeholder_is_never_learned_as_text(text):
    with pytest.raises(OlaError, match="placeholder is not followed by a line end"):
        message(text)


def test_the_tokens_of_answers_are_marked():
    turns = [("human", "<image>\nhi"), ("gpt", "yo"), ("human", "x"), ("gpt", "<image>\nz"), ("human", "y")]
    made = encode_training(turns, TOKENIZER, "s", has_image=True, has_audio=False)
    assert made.ids[made.answers].tolist() == [*ids("yo"), NEWLINE, *ids("z")]
    assert (made.labels[made.answers] == made.ids[made.answers]).all()
    silent = encode_training([("human", "x"), ("gpt", "")], TOKENIZER, "s", has_image=False, has_audio=False)
    assert not silent.answers.any()


def test_an_image_that_ends_a_message_is_kept():
    assert message("<image>") == [IMAGE_ID, NEWLINE]
    assert message("<image>\n<image>") == [IMAGE_ID, NEWLINE] * 2


def test_placeholders_without_media_are_text():
    assert message("<image>\nX", has_image=False) == ids("<image>\nX")
    assert message("<speech>\nX", has_audio=False) == ids("<speech>\nX")


def test_the_loss_covers_answers_and_the_marks_of_every_turn():
    turns = [("human", "<image>\nhi"), ("gpt", "yo")]
    made = encode_training(turns, TOKENIZER, "s", has_image=True, has_audio=False)
    answer = ids("yo")
    expected = []
    for head, body, learned in (
        (ids("<|im_start|>system\n"), ids("s"), False),
        ([*ids("<|im_start|>user"), NEWLINE], [IMAGE_ID, NEWLINE, *ids("hi")], False),
        ([*ids("<|im_start|>assistant"), NEWLINE], answer, True),
    ):
        inside = body if learned else [IGNORE] * len(body)
        expected += [START, *[IGNORE] * (len(head) - 1), *inside, END, NEWLINE]
    assert made.labels.tolist() == expected
    assert len(made.ids) == len(made.labels)


def test_a_prompt_opens_the_assistants_turn():
    turns = [("human", "<speech><image>\nhi"), ("gpt", "yo"), ("human", "more")]
    expected = [
        *ids("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n"),
        *[AUDIO_ID, IMAGE_ID],
        *ids("\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"),
        *ids("<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"),
    ]
    assert encode_prompt(turns, TOKENIZER, "s", has_image=True, has_audio=True).tolist() == expected
