"""The published files of benchmarks on audio are read in exactly their columns."""

import pathlib

from tests.eval.published_files import read_items, stored, write_json, write_parquet


def test_librispeech(tmp_path: pathlib.Path) -> None:
    chapter = tmp_path / "test-clean/61/70968"
    chapter.mkdir(parents=True)
    (chapter / "61-70968.trans.txt").write_text(
        "61-70968-0000 HE BEGAN A CONFUSED COMPLAINT\n61-70968-0001 AND\n"
    )
    first, second = read_items("librispeech", tmp_path)
    assert (first.audio, first.answers) == (
        (chapter / "61-70968-0000.flac",),
        ("HE BEGAN A CONFUSED COMPLAINT",),
    )
    assert (first.category, second.groups["speaker"]) == ("test-clean", "61")
    write_parquet(
        tmp_path / "hf/test.parquet",
        [{"audio": stored(b"flac"), "gt": "hi", "task": "asr_en", "source": "s"}],
    )
    (item,) = read_items("librispeech", tmp_path / "hf")
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
    (item,) = read_items("air_bench_chat", tmp_path)
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
    (item,) = read_items("air_bench_foundation", tmp_path)
    assert (item.answers, item.options, item.audio) == (
        ("B",),
        ("x", "y"),
        (tmp_path / "Audio_Grounding_d/b.flac",),
    )
