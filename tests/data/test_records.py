import json

import pytest

from ola_jax.data.failures import NothingToLearnError
from ola_jax.data.records import MAX_ID, parse_record, prompt_record, read_records
from ola_jax.errors import OlaError


def record(*messages, **keys):
    who = ("human", "gpt")
    return {"conversations": [{"from": who[i % 2], "value": m} for i, m in enumerate(messages)], **keys}


def test_a_spoken_question_replaces_the_first_message():
    parsed = parse_record(record("PLACEHOLDER", "a", audio_q="q.wav", text_q="Spoken: <speech>"))
    assert parsed.turns == (("human", "Spoken: <speech>\n"), ("gpt", "a"))
    assert parsed.audio == "q.wav"
    documented = parse_record(record("Spoken: <speech>", "a", audio_q="q.wav"))
    assert documented == parsed


def test_an_opening_answer_is_dropped():
    turns = {"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]}
    assert parse_record(turns).turns == (("human", "y"),)


def test_a_spoken_question_replaces_the_first_message_of_the_human():
    turns = [("gpt", "Hello."), ("human", "PLACEHOLDER"), ("gpt", "a"), ("human", "more")]
    made = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    parsed = parse_record({**made, "audio_q": "q.wav", "text_q": "<speech>\r\nSpoken"}, training=True)
    assert parsed.turns == (("human", "<speech>\nSpoken"), ("gpt", "a"), ("human", "more"))
    assert not parsed.is_prompt


def test_a_last_question_without_an_answer_is_a_prompt_but_not_in_training():
    asked = record("a", "b", "c")
    assert parse_record(asked).is_prompt
    assert not parse_record(asked, training=True).is_prompt
    assert parse_record(asked, training=True).turns == (("human", "a"), ("gpt", "b"), ("human", "c"))


@pytest.mark.parametrize(
    "nothing",
    [
        record("a"),
        record("a", ""),
        record("a", "", "b"),
        record("x", "<image>", image="i.png"),
        {"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]},
    ],
)
def test_a_record_without_an_answer_is_refused_in_training(nothing):
    with pytest.raises(NothingToLearnError, match="no answer of 'gpt' to learn from"):
        parse_record(nothing, training=True)
    parse_record(nothing)


def test_one_answer_of_several_is_enough():
    assert len(parse_record(record("a", "", "b", " "), training=True).turns) == 4


MARKS = [
    (record("<image>\nx", "a"), r"'conversations'\[0\]: '<image>' in the text and no image or video"),
    (record("x", "a <image>"), r"'conversations'\[1\]: '<image>' in the text"),
    (record("<speech>\nx", "a"), "'<speech>' in the text and no audio"),
    (record("<image>\n<speech>", "a", image="i.png"), "'<speech>' in the text and no audio"),
    (record("<speech><image>\n", "a", audio="a.wav"), "'<image>' in the text and no image or video"),
    (record("<image>", "a", image=[]), "'<image>' in the text and no image or video"),
    (record("<speech><image>\nx", "a", video=["a.png", "b.png"]), "'<speech>' in the text and no audio"),
    (
        record("<image>\n<video>", "a", video="v.mp4"),
        "'<video>' in the text; the mark of an image or a video",
    ),
    (record("x <audio>", "a"), "'<audio>' in the text"),
]


@pytest.mark.parametrize(("wrong", "message"), MARKS)
@pytest.mark.parametrize("training", [False, True])
def test_marks_without_their_media_are_refused(wrong, message, training):
    with pytest.raises(OlaError, match=message):
        parse_record(wrong, training=training)


@pytest.mark.parametrize("wrong", [wrong for wrong, _ in MARKS])
def test_marks_without_their_media_may_be_text(wrong):
    parsed = parse_record(wrong, training=True, marks_are_text=True)
    assert parsed.has_audio == (parsed.audio is not None)
    if not parsed.images and not parsed.video and not parsed.audio:
        assert [text for _, text in parsed.turns] == [m["value"] for m in wrong["conversations"]]


def test_marks_of_the_records_own_media_are_marks_even_where_others_are_text():
    made = record("What is <speech>? <image>", "a", image="i.png")
    parsed = parse_record(made, training=True, marks_are_text=True)
    assert parsed.turns[0][1] == "<image>\nWhat is <speech>?"
    assert not parsed.has_audio
    with pytest.raises(OlaError, match="2 '<image>' placeholders for 1 of image"):
        parse_record(record("<image> <image>", "a", image="i.png"), marks_are_text=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (record("x", "a", image="i.png"), "0 '<image>' placeholders for 1 of image"),
        (record("<image><image>", "a", image="i.png"), "2 '<image>' placeholders for 1 of image"),
        (record("<image>", "a", image=["i.png", "j.png"]), "1 '<image>' placeholders for 2 of image"),
        (record("<image>", "<image>", video="v.mp4"), "2 '<image>' placeholders for 1 of video"),
        (record("x", "a", video="v.mp4"), "0 '<image>' placeholders for 1 of video"),
        (record("x", "a", audio="a.wav"), "0 '<speech>' placeholders for 1 of audio"),
        (record("<speech> <speech>", "a", audio="a.wav"), "2 '<speech>' placeholders for 1 of audio"),
        (record("<image>", "a", video="v.mp4", audio="a.wav"), "0 '<speech>' placeholders for 1 of audio"),
        (record("<speech><speech><image>", "a", video="v.mp4"), "2 '<speech>' placeholders for 1 of audio"),
        (record("x", "a", audio_q="a.wav", text_q="y"), "0 '<speech>' placeholders for 1 of audio"),
    ],
)
@pytest.mark.parametrize("marks_are_text", [False, True])
def test_each_medium_needs_its_mark(wrong, message, marks_are_text):
    with pytest.raises(OlaError, match=message):
        parse_record(wrong, marks_are_text=marks_are_text)
    with pytest.raises(OlaError, match=message):
        parse_record(wrong, training=True, marks_are_text=marks_are_text)


def test_all_images_and_the_audio_move_to_the_front():
    made = record("<image>\n<image>\nCompare. <speech>", "a", image=["i.png", "j.png"], audio="a.wav")
    assert parse_record(made).turns[0][1] == "<speech><image>\n<image>\nCompare."


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_marks_may_end_with_windows_line_ends(end):
    spoken = f"<image>{end}Asked: <speech>{end}b\r\nc"
    made = record("x", "a", image="i.png", audio_q="q.wav", text_q=spoken)
    assert parse_record(made).turns[0][1] == "<image>\nAsked: <speech>\nb\r\nc"
    prompt = record(f"<image>{end}x", image="i.png")
    assert parse_record(prompt).turns[0][1] == "<image>\nx"
    assert parse_record(record("x\r\ny", "a\r\nb")).turns == (("human", "x\r\ny"), ("gpt", "a\r\nb"))


@pytest.mark.parametrize(
    ("given", "name"),
    [(None, ""), ("", ""), (7, "7"), (["a"], "['a']"), ({"b": 1}, "{'b': 1}"), (0, "0"), ("a\nb", r"a\nb")],
)
def test_ids_become_text(given, name):
    assert parse_record(record("x", "a", id=given)).id == name


def test_a_long_id_is_shortened():
    assert len(parse_record(record("x", "a", id="i" * 9999)).id) == MAX_ID
    assert len(parse_record(record("x", "a", id=["i"] * 9999)).id) <= MAX_ID


def test_only_training_records_have_their_placeholders_moved():
    assert parse_record(record("x <image>", "a", image="i.png")).turns[0][1] == "<image>\nx"
    prompt = parse_record(record("x <image>\n?", image="i.png"))
    assert prompt.is_prompt
    assert prompt.turns[0][1] == "x <image>\n?"


@pytest.mark.parametrize(
    ("media", "front"),
    [
        ({}, ""),
        ({"images": ["a.png", "b.png"]}, "<image>\n<image>\n"),
        ({"audio": "a.wav"}, "<speech>\n"),
        ({"video": "v.mp4"}, "<speech><image>\n"),
        ({"video": "v.mp4", "audio": "a.wav"}, "<speech><image>\n"),
        ({"images": ["a.png"], "audio": "a.wav"}, "<image>\nUser's question in speech: <speech>\n"),
    ],
)
def test_prompts_are_worded_as_the_originals(media, front):
    made = prompt_record("Why?", **media)
    assert made["conversations"] == [{"from": "human", "value": front + "Why?"}]
    assert parse_record(made).turns == (("human", front + "Why?"),)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([], "expected a JSON object, found list"),
        ({}, "'conversations': expected a list"),
        ({"conversations": []}, "'conversations': expected a list"),
        ({"conversations": [{"from": "human"}]}, r"'conversations'\[0\]: expected an object with"),
        ({"conversations": [{"from": "user", "value": "x"}]}, "'from' is 'user'; expected 'human' or 'gpt'"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "expected a message from 'human'"),
        (record("x", image=3), "'image': expected a path or a patch object, found 3"),
        (record("x", video=[]), "'video' is an empty list"),
        (record("x", image="a", video="b"), "both 'image' and 'video'"),
        (record("x", audio="a", audio_q="b"), "both 'audio' and 'audio_q'"),
        (record("x", audio_q="b", text_q=1), "'text_q': expected a string, found 1"),
        ({"conversations": {"from": "human"}}, "'conversations': expected a list"),
        ({"conversations": "human"}, "'conversations': expected a list"),
        ({"conversations": ["x"]}, r"'conversations'\[0\]: expected an object with"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, r"'from' is \['human'\]; expected"),
        ({"conversations": [{"from": {}, "value": "x"}]}, "'from' is {}; expected"),
        ({"conversations": [{"from": "human", "value": ["x"] * 99_999}]}, r"\[0\]: expected an object with"),
        (record("x", "half \ud83d"), r"\[1\]: 'value': character 5 is half of a surrogate pair \(U\+D83D\)"),
        (record("x", audio_q="b", text_q="\udfff"), "'text_q': character 0 is half of a surrogate pair"),
        (record("x", image=""), "'image': expected a path or a patch object, found ''"),
        (record("x", image=[None]), "'image': expected a path or a patch object, found None"),
        (record("x", image=[["a.png"]]), r"'image': expected a path or a patch object, found \['a.png'\]"),
        (record("x", image=float("nan")), "'image': expected a path or a patch object, found nan"),
        (record("x", video={}), "'video': expected a path or a patch object, found {}"),
        (record("x", audio=["a.wav"]), r"'audio': expected a path or a patch object, found \['a.wav'\]"),
        (record("x", images=["a.png"]), "'images' is not a key of Ola's records"),
        (record(""), "the prompt is empty"),
        (record(" \n"), "the prompt is empty"),
    ],
)
def test_wrong_records_are_errors_that_name_the_key(broken, message):
    with pytest.raises(OlaError, match=message) as caught:
        parse_record(broken)
    assert str(caught.value).isprintable()


def test_json_and_json_lines_are_read(tmp_path):
    records = [record("x", "é"), record("y")]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    assert read_records(tmp_path / "a.json") == read_records(tmp_path / "a.jsonl") == records


def test_an_element_that_is_not_a_record_is_an_error_with_its_place(tmp_path):
    (tmp_path / "a.json").write_text('[{"id": 1}, 2]')
    with pytest.raises(OlaError, match=r"a\.json: record 1 \(from 0\): expected a JSON object, found int"):
        read_records(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n\n{"id": \n')
    with pytest.raises(OlaError, match=r"a\.jsonl: line 3: not valid JSON: Expecting value: column"):
        read_records(tmp_path / "a.jsonl")
