"""The published files are read in exactly their columns."""

import pathlib

import pytest

from ola_jax.errors import OlaError
from ola_jax.eval.benchmarks import BENCHMARKS, benchmark
from ola_jax.eval.items import Clip, Item
from ola_jax.eval.published import base64_media, checksum
from tests.eval.published_files import base64_png, png, stored, write_json, write_parquet, write_tsv

ABCD = {"A": "x", "B": "y", "C": "z", "D": "w"}


def read(task: str, folder: pathlib.Path) -> list[Item]:
    return benchmark(task).read(folder).items


def test_mmbench_has_rolled_copies_and_images_by_reference(tmp_path: pathlib.Path) -> None:
    row = {"question": "What?", "hint": "Look.", "answer": "B", "category": "c", "l2-category": "l", **ABCD}
    rolled = {"A": "w", "B": "x", "C": "y", "D": "z", "answer": "C"}
    file = write_tsv(
        tmp_path / "MMBench_DEV_EN_V11.tsv",
        [
            {"index": 7, **row, "image": base64_png(0)},
            {"index": 1000007, **row, **rolled, "image": "7"},
            {"index": 8, **row, "C": "", "D": "", "hint": "", "image": "1000007"},
        ],
    )
    first, second, third = read("mmbench_v11", tmp_path)
    assert [item.images[0].read() for item in (first, second, third)] == [png(0)] * 3
    assert [item.groups["circular"] for item in (first, second, third)] == ["7", "7", "8"]
    assert [item.groups["image"] for item in (first, second, third)] == ["7", "7", "7"]
    assert (second.answers, second.options) == (("C",), ("w", "x", "y", "z"))
    assert (first.hint, third.hint, third.options) == ("Look.", "", ("x", "y"))
    known = checksum(file, benchmark("mmbench_v11").known_md5)
    assert (known.verdict, known.known) == ("other", "30c05be8f2f347a50be25aa067248184")
    write_tsv(file, [{"index": 7, **row, "image": "9"}])
    with pytest.raises(OlaError, match="row 7: its image is that of row '9', which is not there"):
        read("mmbench_v11", tmp_path)


def test_mmbench_in_parquet_is_that_of_english(tmp_path: pathlib.Path) -> None:
    row = {"index": 241, "question": "What?", "hint": "nan", "answer": "A", **ABCD, "D": "nan"}
    row |= {"category": "c", "image": stored(png(5)), "source": "s", "L2-category": "l", "split": "dev"}
    write_parquet(tmp_path / "en/dev-0.parquet", [row, {**row, "index": 1000241, "answer": "B"}])
    write_parquet(tmp_path / "cn/dev-0.parquet", [row])
    first, second = read("mmbench_v11", tmp_path)
    assert (first.id, first.options, first.hint, first.groups["l2"]) == ("241", ("x", "y", "z"), "", "l")
    assert (second.groups["circular"], second.images[0].read()) == ("241", png(5))


def test_mmbench_without_answers_is_read(tmp_path: pathlib.Path) -> None:
    row = {"index": 1, "question": "What?", **ABCD, "image": base64_png(0)}
    write_tsv(tmp_path / "MMBench_TEST_EN_V11.tsv", [row])
    assert read("mmbench_v11", tmp_path)[0].answers == ()


def test_mmstar_and_ai2d(tmp_path: pathlib.Path) -> None:
    row = {"index": 3, "question": "What?", "answer": "D", "category": "c", "l2_category": "l", **ABCD}
    write_tsv(tmp_path / "MMStar.tsv", [{**row, "image": base64_png(1)}])
    (item,) = read("mmstar", tmp_path)
    assert (item.answers, item.category, item.groups["l2"], item.images[0].read()) == (
        ("D",),
        "c",
        "l",
        png(1),
    )
    inside = {k: v for k, v in row.items() if k not in ABCD} | {
        "question": "What?\nOptions: A: x, B: y, C: z, D: w"
    }
    write_parquet(tmp_path / "hf/val.parquet", [{**inside, "image": png(2)}])
    (item,) = read("mmstar", tmp_path / "hf")
    assert (item.options, item.images[0].read()) == (("x", "y", "z", "w"), png(2))
    worded = benchmark("mmstar").wordings
    assert worded["vlmevalkit"](item)[1].startswith("Question: What?\nOptions:\nA. x\n")
    assert worded["lmms_eval"](item)[1].startswith("What?\nOptions: A: x, B: y, C: z, D: w\nAnswer with")
    write_tsv(
        tmp_path / "AI2D_TEST.tsv",
        [{"index": 0, "question": "q", "answer": "A", **ABCD, "image": base64_png(3)}],
    )
    assert read("ai2d", tmp_path)[0].images[0].read() == png(3)
    write_parquet(
        tmp_path / "ai/test.parquet",
        [{"question": "q", "options": ["x", "y"], "answer": "1", "image": stored(png(4))}],
    )
    (item,) = read("ai2d", tmp_path / "ai")
    assert (item.answers, item.options, item.images[0].read()) == (("B",), ("x", "y"), png(4))


def test_mmmu_has_several_images_and_open_questions(tmp_path: pathlib.Path) -> None:
    both = f"['{base64_png(1)}', '{base64_png(2)}']"
    rows = [
        {
            "index": 1,
            "id": "validation_Art_1",
            "question": "<image 1> or <image 2>?",
            "answer": "A",
            **ABCD,
            "image": both,
            "split": "validation",
        },
        {
            "index": 2,
            "id": "validation_Art_2",
            "question": "How many?",
            "answer": "24",
            "image": base64_png(3),
            "split": "validation",
        },
        {
            "index": 3,
            "id": "dev_Art_1",
            "question": "?",
            "answer": "A",
            **ABCD,
            "image": base64_png(3),
            "split": "dev",
        },
    ]
    write_tsv(tmp_path / "MMMU_DEV_VAL.tsv", rows)
    first, second = read("mmmu_val", tmp_path)
    assert [image.read() for image in first.images] == [png(1), png(2)]
    assert (second.options, second.answers) == ((), ("24",))
    images = {f"image_{n}": stored(png(n)) if n < 3 else None for n in range(1, 8)}
    row = {
        "id": "validation_Art_Theory_3",
        "question": "<image 1>?",
        "options": "['x', \"it's\"]",
        "question_type": "multiple-choice",
        "answer": "B",
        "subfield": "s",
        **images,
    }
    write_parquet(
        tmp_path / "hf/validation-0.parquet",
        [row, {**row, "id": "validation_Art_4", "options": "[]", "answer": "['a', 'b']"}],
    )
    first, second = read("mmmu_val", tmp_path / "hf")
    assert (first.category, first.options, len(first.images)) == ("Art_Theory", ("x", "it's"), 2)
    assert second.answers == ("a", "b")


def test_mathvista(tmp_path: pathlib.Path) -> None:
    rows = [
        {
            "index": 1,
            "question": "Hint\nQ",
            "answer": "y",
            "answer_option": "B",
            "question_type": "multi_choice",
            "answer_type": "text",
            "choices": "['x', 'y']",
            "task": "t",
            "skills": "['s']",
            "image": base64_png(1),
        },
        {
            "index": 2,
            "question": "Q2",
            "answer": "1.2",
            "question_type": "free_form",
            "answer_type": "float",
            "task": "t",
            "skills": "[]",
            "image": base64_png(1),
        },
    ]
    write_tsv(tmp_path / "MathVista_MINI.tsv", rows)
    choice, free = read("mathvista_mini", tmp_path)
    assert (choice.answers, choice.options, free.answers, free.options) == (("B",), ("x", "y"), ("1.2",), ())
    row = {
        "pid": "5",
        "question": "Q",
        "unit": None,
        "precision": 1.0,
        "choices": None,
        "answer": "1.5",
        "question_type": "free_form",
        "answer_type": "float",
        "query": "Hint: Q",
        "metadata": {"task": "t"},
        "decoded_image": stored(png(1)),
    }
    write_parquet(tmp_path / "hf/testmini-0.parquet", [row])
    (item,) = read("mathvista_mini", tmp_path / "hf")
    assert (item.fields["precision"], item.fields["query"], item.category) == (1.0, "Hint: Q", "t")


def test_hallusion_bench_ocrbench_mmvet(tmp_path: pathlib.Path) -> None:
    row = {
        "index": "0_VD_chart_3_1_2",
        "question": "Is it?",
        "answer": "Yes",
        "category": "VD",
        "l2-category": "chart",
        "image": base64_png(1),
    }
    write_tsv(tmp_path / "HallusionBench.tsv", [row])
    (item,) = read("hallusion_bench", tmp_path)
    assert dict(item.groups) == {"set": "chart_3", "figure": "chart_3_1", "question": "chart_3_2"}
    hf = {
        "category": "VS",
        "subcategory": "map",
        "set_id": "0",
        "figure_id": "1",
        "question_id": "2",
        "question": "Is it?",
        "gt_answer": "0",
        "gt_answer_details": "no",
        "image": stored(png(1)),
    }
    write_parquet(tmp_path / "h/image-0.parquet", [hf])
    assert read("hallusion_bench", tmp_path / "h")[0].answers == ("No",)
    write_tsv(
        tmp_path / "OCRBench.tsv",
        [
            {
                "index": 1,
                "question": "Read.",
                "answer": "['CENTRE', 'centre']",
                "category": "Regular Text Recognition",
                "image": base64_png(1),
            }
        ],
    )
    assert read("ocrbench", tmp_path)[0].answers == ("CENTRE", "centre")
    write_parquet(
        tmp_path / "o/test.parquet",
        [
            {
                "dataset": "IIIT5K",
                "question": "Read.",
                "question_type": "Regular Text Recognition",
                "answer": ["CENTRE"],
                "image": stored(png(1)),
            }
        ],
    )
    assert read("ocrbench", tmp_path / "o")[0].answers == ("CENTRE",)
    write_tsv(
        tmp_path / "MMVet.tsv",
        [
            {
                "index": "v1_0",
                "question": "x?",
                "answer": "-1<AND>-5",
                "category": "ocr,math",
                "image": base64_png(1),
            }
        ],
    )
    assert read("mmvet", tmp_path)[0].answers == ("-1<AND>-5",)


def test_videomme_with_and_without_subtitles(tmp_path: pathlib.Path) -> None:
    row = {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Law",
        "url": "u",
        "videoID": "abc",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "How many?",
        "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."],
        "answer": "C",
    }
    write_parquet(tmp_path / "videomme/test-00000-of-00001.parquet", [row])
    (tmp_path / "data").mkdir()
    (tmp_path / "data/abc.mkv").write_bytes(b"x")
    (item,) = read("videomme", tmp_path)
    assert (item.video, item.options[2], item.category, item.groups["video"]) == (
        tmp_path / "data/abc.mkv",
        "3.",
        "short",
        "abc",
    )
    assert item.fields["subtitle"] is None
    (item,) = read("videomme_subtitles", tmp_path)
    assert item.fields["subtitle"] == tmp_path / "subtitle/abc.srt"
    assert "No subtitles available" in str(benchmark("videomme_subtitles").wordings["lmms_eval"](item))


def test_longvideobench_and_mvbench(tmp_path: pathlib.Path) -> None:
    row = {
        "video_id": "v",
        "video_path": "v.mp4",
        "question": "What?",
        "candidates": ["x", "y"],
        "correct_choice": 1,
        "duration_group": 60,
        "question_category": "S2E",
        "starting_timestamp_for_subtitles": 0,
        "duration": 55.0,
        "subtitle_path": "v.json",
        "id": "v_0",
    }
    write_json(tmp_path / "lvb_val.json", [row])
    (item,) = read("longvideobench_val", tmp_path)
    assert (item.answers, item.video, item.category) == (("B",), tmp_path / "videos/v.mp4", "60")
    write_json(tmp_path / "lvb_val.json", [{**row, "correct_choice": 2}])
    with pytest.raises(OlaError, match="question 0: correct_choice 2 of 2"):
        read("longvideobench_val", tmp_path)
    write_json(
        tmp_path / "mv/json/action_sequence.json",
        [
            {
                "video": "a.mp4",
                "question": "q",
                "candidates": ["x", "y"],
                "answer": "y",
                "start": 1.5,
                "end": 4.0,
            }
        ],
    )
    write_json(
        tmp_path / "mv/json/action_antonym.json",
        [{"video": "b.mp4", "question": "q", "candidates": ["x", "y"], "answer": "x"}],
    )
    whole, cut = read("mvbench", tmp_path / "mv")
    assert (whole.video, whole.answers) == (tmp_path / "mv/ssv2_video/b.mp4", ("A",))
    assert cut.video == Clip(tmp_path / "mv/star/Charades_v1_480/a.mp4", 1.5, 4.0)
    write_json(
        tmp_path / "mv/json/action_antonym.json",
        [{"video": "b.mp4", "question": "q", "candidates": ["x"], "answer": "z"}],
    )
    with pytest.raises(OlaError, match="the answer 'z' is none of the options"):
        read("mvbench", tmp_path / "mv")


def test_librispeech(tmp_path: pathlib.Path) -> None:
    chapter = tmp_path / "test-clean/61/70968"
    chapter.mkdir(parents=True)
    (chapter / "61-70968.trans.txt").write_text(
        "61-70968-0000 HE BEGAN A CONFUSED COMPLAINT\n61-70968-0001 AND\n"
    )
    first, second = read("librispeech", tmp_path)
    assert (first.audio, first.answers) == (
        (chapter / "61-70968-0000.flac",),
        ("HE BEGAN A CONFUSED COMPLAINT",),
    )
    assert (first.category, second.groups["speaker"]) == ("test-clean", "61")
    write_parquet(
        tmp_path / "hf/test.parquet",
        [{"audio": stored(b"flac"), "gt": "hi", "task": "asr_en", "source": "s"}],
    )
    (item,) = read("librispeech", tmp_path / "hf")
    assert (item.audio[0].read(), item.answers) == (b"flac", ("hi",))


def test_air_bench(tmp_path: pathlib.Path) -> None:
    chat = {
        "path": "a.wav",
        "question": "q",
        "answer_gt": "long",
        "meta_info": "rain",
        "task_name": "sound_QA",
        "dataset_name": "clotho",
        "uniq_id": 4,
    }
    write_json(tmp_path / "Chat_meta.json", [chat])
    (item,) = read("air_bench_chat", tmp_path)
    assert (item.audio, item.category, item.fields["description"]) == (
        (tmp_path / "sound_QA_clotho/a.wav",),
        "sound",
        "rain",
    )
    row = {
        "path": "b.wav",
        "question": "q",
        "choice_a": "x",
        "choice_b": "y",
        "answer_gt": "y",
        "task_name": "Audio_Grounding",
        "dataset_name": "d",
        "uniq_id": 5,
    }
    write_json(tmp_path / "Foundation_meta.json", [row])
    (item,) = read("air_bench_foundation", tmp_path)
    assert (item.answers, item.options, item.audio) == (
        ("B",),
        ("x", "y"),
        (tmp_path / "Audio_Grounding_d/b.flac",),
    )


def test_omni_benchmarks(tmp_path: pathlib.Path) -> None:
    row = {
        "index": 0,
        "task type": "Action",
        "audio content": "a",
        "image content": "i",
        "question": "q",
        "options": ["x", "y"],
        "answer": "y",
        "audio": stored(b"wav"),
        "image": stored(png(1)),
    }
    write_parquet(tmp_path / "omni/train.parquet", [row])
    (item,) = read("omni_bench", tmp_path / "omni")
    assert (item.answers, item.audio[0].read(), item.images[0].read()) == (("B",), b"wav", png(1))
    row = {
        "index": 1,
        "video_path": "videos/v.mp4",
        "subtitle_path": "s.srt",
        "question": "q",
        "candidates": ["A. x", "B. y", "C. z"],
        "answer": "C",
        "task_type": "t",
        "task_domain": "d",
        "duration": "<1min",
        "audio_class": ["Speech"],
    }
    write_parquet(tmp_path / "world/test.parquet", [row])
    (item,) = read("worldsense", tmp_path / "world")
    assert (item.options, item.video) == (("x", "y", "z"), tmp_path / "world/videos/v.mp4")
    row = {
        "Question": "q",
        "Choice": ["A. x", "B. y"],
        "Answer": "B",
        "video_id": "v",
        "Type": "AV",
        "content_parent_category": "p",
        "content_fine_category": "f",
        "video_category": "c",
        "video_duration": "30s",
    }
    write_json(tmp_path / "daily/qa.json", [row])
    (item,) = read("daily_omni", tmp_path / "daily")
    assert (item.video, item.groups["duration"]) == (tmp_path / "daily/v/v_video.mp4", "30s")
    assert "Choices: ['A. x', 'B. y']\n" in str(benchmark("daily_omni").wordings["ola"](item)[1])
    row = {
        "question_id": "1_1",
        "question": "Is [audio1] like [audio2]?",
        "options": ["A. x", "B. y", "C. z", "D. w"],
        "answer": "A",
        "data_type": "image",
        "audio_path": ["a.wav", "b.wav"],
        "image_path": ["i.png"],
        "video_path": [],
        "subfield": "Tone",
    }
    write_json(tmp_path / "av/test.json", [row])
    (item,) = read("av_odyssey", tmp_path / "av")
    assert ([p.name for p in item.audio], [p.name for p in item.images], item.video) == (
        ["a.wav", "b.wav"],
        ["i.png"],
        None,
    )
    row = {
        "id": "m",
        "audio": stored(b"wav"),
        "question": "q",
        "choices": '["x", "y"]',
        "answer": "x",
        "task": "sound",
    }
    write_parquet(tmp_path / "mmau/test_mini-0.parquet", [row] * 5)
    assert [item.audio[0].read() for item in read("mmau_mini", tmp_path / "mmau")] == [b"wav"] * 5


def test_records_are_categories_by_file(tmp_path: pathlib.Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "7"}]
    write_json(
        tmp_path / "heldout/image.json", [{"id": "a", "image": "heldout/x.png", "conversations": turns}]
    )
    write_json(tmp_path / "heldout/media.json", [{}])
    (item,) = read("records", tmp_path / "heldout")
    assert (item.id, item.category, item.answers, item.question) == ("image_a", "image", ("7",), "What?")
    write_json(tmp_path / "bad/x.json", [{"conversations": turns[:1]}])
    with pytest.raises(OlaError, match="expected one message from 'human' and one from 'gpt'"):
        read("records", tmp_path / "bad")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_other_folders_and_files_are_refused(name: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match=r"is there|no records"):
        read(name, tmp_path)
    for file in ("x.tsv", "x.parquet", "x.json"):
        (tmp_path / file).write_text("nothing\n")
        with pytest.raises(OlaError):
            read(name, tmp_path / file)


def test_media_that_are_not_base64_are_named() -> None:
    with pytest.raises(OlaError, match=r"a\.tsv row 3: not base64"):
        base64_media("%", "a.tsv row 3").read()
