"""Prompts are worded as the harnesses word them (tests/goldens/eval/make.py), letter by letter."""

import dataclasses
import json
import pathlib

import pytest

from ola_jax.errors import OlaError
from ola_jax.eval import judging
from ola_jax.eval.benchmarks import BENCHMARKS, benchmark
from ola_jax.eval.items import EmbeddedMedia, Item, MediaSlot, Prompt, WrittenMedia, to_record

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "goldens/eval/prompts.json").read_text())
OPTIONS = ("a cat", "a dog", "a bird", "a fish")
CHOICE = Item("1", "What is it?", ("B",), OPTIONS)
HINT = dataclasses.replace(CHOICE, hint="Look closely.")
VIDEO = Item("1", "What?", ("A",), ("x", "y"), fields={"options": ("A. x", "B. y"), "subtitle": None})


def text(prompt: Prompt) -> str:
    """The text behind the media."""
    media, said = prompt
    assert media == MediaSlot()
    assert isinstance(said, str)
    return said


def worded(task: str, prompt: str, item: Item) -> str:
    return text(benchmark(task).wordings[prompt](item))


def test_choices_about_images() -> None:
    for task in ("mmbench_v11", "mmstar", "ai2d"):
        assert worded(task, "vlmevalkit", HINT) == GOLDEN["vlmevalkit_choice_hint"]
        assert worded(task, "vlmevalkit", CHOICE) == GOLDEN["vlmevalkit_choice_plain"]
        assert worded(task, "ola", HINT) == GOLDEN["ola_choice_hint"]
        assert worded(task, "ola", CHOICE) == GOLDEN["ola_choice_plain"]
    assert worded("mmbench_v11", "lmms_eval", HINT) == GOLDEN["mmbench_lmms"]
    two = Item("1", "What?", ("A",), ("x", "y"))
    assert worded("ai2d", "lmms_eval", two) == GOLDEN["ai2d_lmms"]


def test_images_of_mmmu_stand_where_the_text_names_them() -> None:
    item = dataclasses.replace(CHOICE, question="Compare <image 2> with <image 1> now.")
    prompt = benchmark("mmmu_val").wordings["vlmevalkit"](item)
    shown = {MediaSlot(0): "one", MediaSlot(1): "two"}
    assert [shown.get(part, part) for part in prompt] == GOLDEN["mmmu_vlmevalkit"]
    # lmms-eval shows them in the order of their numbers.
    assert [shown.get(p, p) for p in benchmark("mmmu_val").wordings["lmms_eval"](item)] == GOLDEN["mmmu_lmms"]
    media = WrittenMedia(images=("a.png", "b.png"))
    record = to_record(item, prompt, media, sound=True)
    assert record["image"] == ["b.png", "a.png"]
    assert record["conversations"][0]["value"].startswith("Question: Compare <image>\n with <image>\n now.")
    with pytest.raises(OlaError, match="question 1: it refers to image 2 of 1"):
        to_record(item, prompt, WrittenMedia(images=("a.png",)), sound=True)
    assert benchmark("mmmu_val").wordings["lmms_eval"](Item("1", "How many?", ("2",))) == (
        GOLDEN["mmmu_lmms_open"],
    )


def test_questions_about_videos() -> None:
    assert worded("videomme", "lmms_eval", VIDEO) == GOLDEN["videomme_lmms"]
    assert worded("videomme", "vlmevalkit", VIDEO) == GOLDEN["videomme_vlmevalkit"]
    assert worded("mvbench", "lmms_eval", VIDEO) == GOLDEN["mvbench_lmms"]
    system, media, asked = benchmark("mvbench").wordings["vlmevalkit"](VIDEO)
    assert ([system, asked], media) == (GOLDEN["mvbench_vlmevalkit"], MediaSlot())
    assert worded("longvideobench_val", "lmms_eval", VIDEO) == GOLDEN["longvideobench_lmms"]


def test_questions_about_audio_and_both() -> None:
    four = Item("1", "What?", ("A",), ("x", "y", "z", "w"))
    assert worded("omni_bench", "lmms_eval", four) == GOLDEN["omni_bench"]
    assert worded("worldsense", "lmms_eval", VIDEO) == GOLDEN["worldsense"]
    lettered = {"options": ("A. x", "B. y", "C. z", "D. w")}
    about = dataclasses.replace(four, question="What is [audio1]?", fields=lettered)
    assert worded("av_odyssey", "lmms_eval", about) == GOLDEN["av_odyssey"]
    assert worded("mmau_mini", "lmms_eval", VIDEO) == GOLDEN["mmau"]
    assert worded("air_bench_chat", "lmms_eval", Item("1", "What?", ("x",))) == GOLDEN["air_bench_chat"]
    two = Item("1", "What?", ("A",), ("x", "y"), fields={"choices": ("x", "y", None, None)})
    assert worded("air_bench_foundation", "lmms_eval", two) == GOLDEN["air_bench_foundation"]


def test_questions_of_mathvista() -> None:
    free = Item("1", "How long?", ("1.5",), fields={"answer_type": "float", "precision": 1.0, "unit": "cm"})
    assert worded("mathvista_mini", "lmms_eval", free) == GOLDEN["mathvista_float"]
    choice = Item("1", "How long?", ("A",), ("x", "y"), fields={"answer_type": "text", "unit": ""})
    assert worded("mathvista_mini", "lmms_eval", choice) == GOLDEN["mathvista_choice"]


def test_judges_are_asked_as_the_harnesses_ask_them() -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "7 8"

    two = Item("1", "What?", ("A",), ("x", "y"))
    judging.match_option(two, "an x", ask)
    judging.match_yes_or_no(Item("1", "Is it?", ("Yes",)), "surely", ask)
    judging.grade_mmvet(Item("1", "What?", ("a<AND>b",)), "said", ask)
    judging.extract_value(
        Item("1", "How?", ("1",), fields={"query": "How?", "answer_type": "integer"}), "said", ask
    )
    names = ("judge_option", "judge_yes_no", "judge_mmvet", "judge_mathvista")
    for name, prompt in zip(names, asked, strict=True):
        assert prompt == GOLDEN[name], name
    asked.clear()
    item = Item("1", "Q", ("the reference",), fields={"description": "D"})
    assert judging.grade_air_bench(item, "mine", ask).score == (8 + 7) / 20
    expected = GOLDEN["judge_air_bench"].replace("XAudioX", "D").replace("XQuestionX", "Q")
    # lmms-eval adds a sentence to AIR-Bench's own prompt.
    expected = expected.removesuffix(" Please only output the 2 required number and no text.")
    fill = lambda a, b: expected.replace("XAssistant1X", a).replace("XAssistant2X", b)
    assert asked == [fill("the reference", "mine"), fill("mine", "the reference")]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_wording_has_a_rule_and_unknown_ones_are_refused(name: str) -> None:
    task = benchmark(name)
    assert list(task.wordings) == list(task.rules)
    assert task.prompt_name(None) == next(iter(task.wordings))
    missing = {"vlmevalkit", "lmms_eval", "ola"} - set(task.wordings)
    for prompt in missing:
        with pytest.raises(OlaError, match=f"task {name}: no prompt '{prompt}'; it has "):
            task.prompt_name(prompt)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(OlaError, match="no task 'mmbench'; expected one of mmbench_v11, mmstar"):
        benchmark("mmbench")


def test_media_stand_in_a_record_as_the_model_was_trained_on_them(tmp_path: pathlib.Path) -> None:
    item = Item("1", "Q", ("A",))
    prompt: Prompt = (MediaSlot(), "Q")
    value = lambda media, **options: to_record(item, prompt, media, **{"sound": True} | options)
    video = value(WrittenMedia(video="v.mp4"))
    assert (video["video"], video["conversations"][0]["value"]) == ("v.mp4", "<speech><image>\nQ")
    assert value(WrittenMedia(video="v.mp4"), sound=False)["conversations"][0]["value"] == "<image>\nQ"
    frames = value(WrittenMedia(video=["1.png", "2.png"]))
    assert (frames["video"], frames["conversations"][0]["value"]) == (["1.png", "2.png"], "<image>\nQ")
    both = value(WrittenMedia(images=("a.png",), audio=("b.wav",)))
    assert both["audio_q"] == "b.wav"
    assert both["conversations"][0]["value"] == "<image>\nUser's question in speech: <speech>\nQ"
    clips = value(WrittenMedia(audio=("a.wav", "b.wav")))
    assert clips["audio"] == {"img_path": ["a.wav", "b.wav"]}
    assert clips["conversations"][0]["value"] == "<speech>\nQ"
    assert EmbeddedMedia("x", lambda: b"1").read() == b"1"
