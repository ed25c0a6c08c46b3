"""OmniBench, WorldSense, Daily-Omni, AV-Odyssey (audio with images or video) and MMAU (audio)."""

import json
import pathlib
import re

from ola_jax.errors import OlaError, quote
from ola_jax.eval.benchmark import Benchmark, Reference, Source
from ola_jax.eval.benchmarks.common import (
    LETTER_DIRECTLY,
    choice_rule,
    letter_of,
    letter_rule,
    lettered,
    without_letters,
)
from ola_jax.eval.counting import accuracy
from ola_jax.eval.items import LETTERS, Item, Prompt, after_media
from ola_jax.eval.published import find, read_json, read_parquet
from ola_jax.eval.rules.letters import audio_letter, omni_bench_letter, starting_letter, worldsense_letter

WORLDSENSE_SYSTEM = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the "
    "best option that accurately addresses the question."
)
WORLDSENSE_FRAMES = (
    "\nThese are the frames of a video and the corresponding audio. Select the best answer to the following "
    "multiple-choice question based on the video. Respond with only the letter (A, B, C, or D) of the "
    "correct option.\n"
)
MARK = re.compile(r"\[(audio|video|img)\d+\]")


def read_omni_bench(folder: pathlib.Path) -> Source:
    """Reads parquet files with audio, image, question, options and the answer as text."""
    files = find(folder, "**/*.parquet")
    items = []
    rows = read_parquet(files, ["question", "options", "answer", "task type"], ["audio", "image"])
    for number, row in enumerate(rows):
        options = tuple(map(str, row["options"]))
        items.append(
            Item(
                str(row.get("index", number)),
                row["question"],
                (letter_of(row["answer"], options, f"{files[0]}: question {number}"),),
                options,
                images=(row["image"],),
                audio=(row["audio"],),
                category=row["task type"],
            )
        )
    return Source(items, files)


def read_worldsense(folder: pathlib.Path) -> Source:
    """Reads parquet files, or JSON, with the paths of videos, relative to the folder."""
    columns = ["video_path", "question", "candidates", "answer", "task_type", "task_domain", "duration"]
    files = find(folder, "**/*.parquet", "*.json")
    rows = read_parquet(files, columns) if files[0].suffix == ".parquet" else read_json(files[0], columns)
    items = []
    for number, row in enumerate(rows):
        options = tuple(map(str, row["candidates"]))
        items.append(
            Item(
                str(row.get("index", number)),
                row["question"],
                (row["answer"],),
                without_letters(options),
                video=folder / row["video_path"],
                category=row["task_type"],
                groups={
                    "video": row["video_path"],
                    "domain": row["task_domain"],
                    "duration": str(row["duration"]),
                },
                fields={"options": options},
            )
        )
    return Source(items, files)


def read_daily_omni(folder: pathlib.Path) -> Source:
    """Reads qa.json; videos are Videos/ID/ID_video.mp4."""
    files = find(folder, "qa.json")
    columns = ["Question", "Choice", "Answer", "video_id", "Type", "video_category", "video_duration"]
    videos = next((p for p in (folder / "Videos", folder / "videos") if p.is_dir()), folder)
    items = [
        Item(
            str(number),
            row["Question"],
            (row["Answer"],),
            without_letters(tuple(map(str, row["Choice"]))),
            video=videos / row["video_id"] / f"{row['video_id']}_video.mp4",
            category=row["Type"],
            groups={
                "video": row["video_id"],
                "duration": row["video_duration"],
                "video_category": row["video_category"],
            },
            fields={"options": row["Choice"]},
        )
        for number, row in enumerate(read_json(files[0], columns))
    ]
    return Source(items, files)


def read_av_odyssey(folder: pathlib.Path) -> Source:
    """Reads parquet files with lists of paths, relative to the folder; clips of audio are joined."""
    files = find(folder, "**/*.parquet", "*.json")
    columns = ["question_id", "question", "options", "answer", "data_type", "audio_path"]
    rows = read_parquet(files, columns) if files[0].suffix == ".parquet" else read_json(files[0], columns)
    items = []
    for row in rows:
        where, kinds = f"question {row['question_id']}", row["data_type"]
        options = tuple(map(str, row["options"]))
        paths = lambda column, row=row: [folder / path for path in row.get(column) or []]
        images, videos = paths("image_path"), paths("video_path")
        if "image" not in kinds:
            images = []
        if len(videos) > 1:
            raise OlaError(f"{where}: {len(videos)} videos; the model is asked about one at most")
        items.append(
            Item(
                str(row["question_id"]),
                row["question"],
                (row["answer"],),
                without_letters(options),
                images=tuple(images),
                video=videos[0] if videos and not images else None,
                audio=tuple(paths("audio_path")),
                category=row.get("subfield") or row.get("subtype") or "",
                fields={"options": options},
            )
        )
    return Source(items, files)


def read_mmau(folder: pathlib.Path) -> Source:
    """Reads parquet files with the audio and the choices as JSON text, or mmau-test-mini.json with paths."""
    files = find(folder, "**/test_mini*.parquet", "**/*.parquet", "mmau-test-mini.json")
    if files[0].suffix == ".json":
        rows = read_json(files[0], ["id", "audio_id", "question", "choices", "answer", "task"])
        audio = [folder / row["audio_id"] for row in rows]
    else:
        rows = read_parquet(files, ["question", "choices", "answer", "task"], ["audio"])
        audio = [row["audio"] for row in rows]
    items = []
    for number, (row, sound) in enumerate(zip(rows, audio, strict=True)):
        where = f"{files[0]}: question {number}"
        choices = row["choices"]
        try:
            choices = json.loads(choices) if isinstance(choices, str) else choices
        except ValueError as error:
            raise OlaError(f"{where}: choices {quote(choices)} are not JSON") from error
        options = tuple(map(str, choices))
        items.append(
            Item(
                str(row.get("id") or number),
                row["question"],
                (letter_of(row["answer"], options, where),),
                options,
                audio=(sound,),
                category=row["task"],
            )
        )
    return Source(items, files)


def _omni_bench(item: Item) -> Prompt:
    return after_media(f"Question:\n{item.question}\n\nOptions:\n{lettered(item)}\n\n{LETTER_DIRECTLY}")


def _worldsense(item: Item) -> Prompt:
    options = "".join(f"{option}\n" for option in item.fields["options"])
    return after_media(f"{WORLDSENSE_SYSTEM}{WORLDSENSE_FRAMES}{item.question}\n{options}")


def _daily_omni(item: Item) -> Prompt:
    """Daily-Omni, test_model/Ola/inference/testmodel.py: the list of choices as Python writes it."""
    return after_media(
        "\nYour task is to accurately answer multiple-choice questions based on the given video.\n"
        "Select the single most accurate answer from the given choices.\n"
        f"Question: {item.question}\nChoices: {item.fields['options']}\n"
        "Your answer should be a capital letter representing your choice: A, B, C, or D. "
        "Don't generate any other text.\n"
    )


def _av_odyssey(item: Item) -> Prompt:
    """lmms-eval's text; the marks of media inside it name those in front, in order, and are kept."""
    options = "".join(f"{option}\n" for option in item.fields["options"])
    return after_media(f"{item.question}\n{options}{LETTER_DIRECTLY}")


def _mmau(item: Item) -> Prompt:
    return after_media(f"{item.question}\n{lettered(item)}\n{LETTER_DIRECTLY}")


OMNI_BENCH = Benchmark(
    name="omni_bench",
    title="OmniBench",
    modality="omni",
    expects="parquet files with audio, image, question, options, answer",
    read=read_omni_bench,
    wordings={"lmms_eval": _omni_bench},
    rules={"lmms_eval": letter_rule(omni_bench_letter)},
    measures=accuracy(),
    max_new_tokens=128,
    note="lmms-eval's adapter of Ola ignores the image; here image and audio are given",
)
WORLDSENSE = Benchmark(
    name="worldsense",
    title="WorldSense",
    modality="omni",
    expects="parquet files or JSON with video_path; the videos",
    read=read_worldsense,
    wordings={"lmms_eval": _worldsense},
    rules={"lmms_eval": choice_rule(worldsense_letter)},
    measures=accuracy("video", "domain", "duration"),
    max_new_tokens=256,
)
DAILY_OMNI = Benchmark(
    name="daily_omni",
    title="Daily-Omni",
    modality="omni",
    expects="qa.json, Videos/ID/ID_video.mp4",
    read=read_daily_omni,
    wordings={"ola": _daily_omni},
    rules={"ola": letter_rule(starting_letter)},
    measures=accuracy("video", "duration", "video_category"),
    max_new_tokens=64,
    references=(Reference("Ola-7B, table of a later paper", 50.71),),
)
AV_ODYSSEY = Benchmark(
    name="av_odyssey",
    title="AV-Odyssey",
    modality="omni",
    expects="parquet files or JSON with lists of paths; the media",
    read=read_av_odyssey,
    wordings={"lmms_eval": _av_odyssey},
    rules={"lmms_eval": choice_rule(worldsense_letter)},
    measures=accuracy(),
    max_new_tokens=64,
    note="several audio clips of a question are joined, as the model takes one",
)
MMAU = Benchmark(
    name="mmau_mini",
    title="MMAU, test-mini",
    modality="audio",
    expects="parquet files with audio, or mmau-test-mini.json with the audio files",
    read=read_mmau,
    wordings={"lmms_eval": _mmau},
    rules={"lmms_eval": letter_rule(lambda answer, letters: audio_letter(answer, LETTERS[:4]))},
    measures=accuracy(),
    max_new_tokens=128,
)
