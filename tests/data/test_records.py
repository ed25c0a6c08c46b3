import json

import pytest

from ola_jax.data.records import parse_record, prompt_record, read_records
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
        ({"conversations": [{"from": "user", "value": "x"}]}, "'from' is 'user', expected 'human' or 'gpt'"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "expected a message from 'human'"),
        (record("x", image=3), "'image': expected a path or a patch object, found 3"),
        (record("x", video=[]), "'video': the list of frames is empty"),
        (record("x", image="a", video="b"), "both 'image' and 'video'"),
        (record("x", audio="a", audio_q="b"), "both 'audio' and 'audio_q'"),
        (record("x", audio_q="b", text_q=1), "'text_q': expected text, found 1"),
        (record(""), "the prompt is empty"),
        (record(" \n"), "the prompt is empty"),
    ],
)
def test_wrong_records_are_errors_that_name_the_key(broken, message):
    with pytest.raises(OlaError, match=message):
        parse_record(broken)


def test_json_and_json_lines_are_read(tmp_path):
    records = [record("x", "é"), record("y")]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    assert read_records(tmp_path / "a.json") == read_records(tmp_path / "a.jsonl") == records
