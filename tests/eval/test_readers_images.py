"""The published files of benchmarks on images are read in exactly their columns."""

import pathlib

import pytest

from ola_jax.errors import OlaError
from ola_jax.eval.benchmarks import benchmark
from ola_jax.eval.published import checksum
from tests.eval.published_files import base64_png, png, read_items, stored, write_parquet, write_tsv

ABCD = {"A": "x", "B": "y", "C": "z", "D": "w"}


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
    first, second, third = read_items("mmbench_v11", tmp_path)
    assert [item.images[0].read() for item in (first, second, third)] == [png(0)] * 3
    assert [item.groups["circular"] for item in (first, second, third)] == ["7", "7", "8"]
    assert [item.groups["image"] for item in (first, second, third)] == ["7", "7", "7"]
    assert (second.answers, second.options) == (("C",), ("w", "x", "y", "z"))
    assert (first.hint, third.hint, third.options) == ("Look.", "", ("x", "y"))
    known = checksum(file, benchmark("mmbench_v11").known_md5)
    assert (known.verdict, known.known) == ("other", "30c05be8f2f347a50be25aa067248184")
    write_tsv(file, [{"index": 7, **row, "image": "9"}])
    with pytest.raises(OlaError, match="row 7: its image is that of row '9', which is not there"):
        read_items("mmbench_v11", tmp_path)


def test_mmbench_in_parquet_is_that_of_english(tmp_path: pathlib.Path) -> None:
    row = {"index": 241, "question": "What?", "hint": "nan", "answer": "A", **ABCD, "D": "nan"}
    row |= {"category": "c", "image": stored(png(5)), "source": "s", "L2-category": "l", "split": "dev"}
    write_parquet(tmp_path / "en/dev-0.parquet", [row, {**row, "index": 1000241, "answer": "B"}])
    write_parquet(tmp_path / "cn/dev-0.parquet", [row])
    first, second = read_items("mmbench_v11", tmp_path)
    assert (first.id, first.options, first.hint, first.groups["l2"]) == ("241", ("x", "y", "z"), "", "l")
    assert (second.groups["circular"], second.images[0].read()) == ("241", png(5))


def test_mmbench_without_answers_is_read(tmp_path: pathlib.Path) -> None:
    row = {"index": 1, "question": "What?", **ABCD, "image": base64_png(0)}
    write_tsv(tmp_path / "MMBench_TEST_EN_V11.tsv", [row])
    assert read_items("mmbench_v11", tmp_path)[0].answers == ()


def test_mmstar_and_ai2d(tmp_path: pathlib.Path) -> None:
    row = {"index": 3, "question": "What?", "answer": "D", "category": "c", "l2_category": "l", **ABCD}
    write_tsv(tmp_path / "MMStar.tsv", [{**row, "image": base64_png(1)}])
    (item,) = read_items("mmstar", tmp_path)
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
    (item,) = read_items("mmstar", tmp_path / "hf")
    assert (item.options, item.images[0].read()) == (("x", "y", "z", "w"), png(2))
    worded = benchmark("mmstar").wordings
    assert worded["vlmevalkit"](item)[1].startswith("Question: What?\nOptions:\nA. x\n")
    assert worded["lmms_eval"](item)[1].startswith("What?\nOptions: A: x, B: y, C: z, D: w\nAnswer with")
    write_tsv(
        tmp_path / "AI2D_TEST.tsv",
        [{"index": 0, "question": "q", "answer": "A", **ABCD, "image": base64_png(3)}],
    )
    assert read_items("ai2d", tmp_path)[0].images[0].read() == png(3)
    write_parquet(
        tmp_path / "ai/test.parquet",
        [{"question": "q", "options": ["x", "y"], "answer": "1", "image": stored(png(4))}],
    )
    (item,) = read_items("ai2d", tmp_path / "ai")
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
    first, second = read_items("mmmu_val", tmp_path)
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
    first, second = read_items("mmmu_val", tmp_path / "hf")
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
    choice, free = read_items("mathvista_mini", tmp_path)
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
    (item,) = read_items("mathvista_mini", tmp_path / "hf")
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
    (item,) = read_items("hallusion_bench", tmp_path)
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
    assert read_items("hallusion_bench", tmp_path / "h")[0].answers == ("No",)
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
    assert read_items("ocrbench", tmp_path)[0].answers == ("CENTRE", "centre")
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
    assert read_items("ocrbench", tmp_path / "o")[0].answers == ("CENTRE",)
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
    assert read_items("mmvet", tmp_path)[0].answers == ("-1<AND>-5",)
