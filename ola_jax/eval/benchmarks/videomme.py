"""Video-MME, with and without subtitles."""

import functools
import pathlib

from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import PAPER, Benchmark, Reference, Source
from ola_jax.eval.benchmarks.common import ranked, without_letters
from ola_jax.eval.clips import duration
from ola_jax.eval.counting import accuracy
from ola_jax.eval.items import Item, MediaSlot, Prompt, after_media
from ola_jax.eval.judging import match_option
from ola_jax.eval.published import find, read_parquet
from ola_jax.eval.rules.letters import VIDEO_PREFIXES, first_letter
from ola_jax.eval.rules.reading import Reading, of_letter
from ola_jax.eval.subtitles import at_times, covering, read_srt

FRAMES = 64  # that Ola sees of a video; subtitles are those shown with them
SELECT = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
SELECT_WITH_SUBTITLES = SELECT.replace("the video.", "the video and the subtitles.")


def read(folder: pathlib.Path, subtitles: bool = False) -> Source:
    """Reads videomme/test-*.parquet; videos are data/ID.mp4, or beside it, subtitles subtitle/ID.srt."""
    files = find(folder, "videomme/test-*.parquet", "**/test-*.parquet", "*.parquet")
    columns = ["videoID", "duration", "domain", "question_id", "task_type", "question", "options", "answer"]
    items = []
    for row in read_parquet(files, columns):
        name = row["videoID"]
        srt = folder / "subtitle" / f"{name}.srt"
        items.append(
            Item(
                row["question_id"],
                row["question"],
                (row["answer"],),
                without_letters(row["options"]),
                video=video_file(folder, name),
                category=row["duration"],
                groups={"video": name, "domain": row["domain"], "task": row["task_type"]},
                fields={"options": tuple(row["options"]), "subtitle": srt if subtitles else None},
            )
        )
    return Source(items, files)


def video_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The video of this name: in data/, video/, videos/ or the folder, as .mp4, .MP4 or .mkv.

    The first of these names if there is none, so that asking about it reports the missing file.
    """
    places = [folder / below for below in ("data", "video", "videos", ".")]
    names = [place / f"{name}.{end}" for place in places for end in ("mp4", "MP4", "mkv")]
    return next((path for path in names if path.is_file()), names[0])


def _question(item: Item) -> str:
    return "\n".join((item.question, *item.fields["options"]))


def _vlmevalkit(item: Item) -> Prompt:
    """VLMEvalKit, dataset/videomme.py: texts after the video, one after the other."""
    listed = ""
    if item.fields["subtitle"] is not None:
        listed = f" This video's subtitles are listed below:\n{_lines(item, each_once=False)}\n"
    head = f"\nThese are the frames of a video.{listed or ' '}{SELECT}\n"
    return (MediaSlot(), f"{head}Question: {_question(item)}\nAnswer: ")


def _lmms(item: Item) -> Prompt:
    """lmms-eval, tasks/videomme, whose wording speaks of subtitles with and without them."""
    question = f"{SELECT_WITH_SUBTITLES}\n{_question(item)}\n"
    if item.fields["subtitle"] is None:
        return after_media(f"{question}\nAnswer with the option's letter from the given choices directly.")
    listed = _lines(item, each_once=True) or "No subtitles available"
    head = f"This video's subtitles are listed below: \n{listed}\n"
    return after_media(f"{head}{question}The best answer is:")


def _lines(item: Item, each_once: bool) -> str:
    """The subtitles at the frames that the model sees; "" for a video without any."""
    file = item.fields["subtitle"]
    if not file.is_file():
        return ""
    if not isinstance(item.video, pathlib.Path):
        raise OlaError(f"question {item.id}: it has no video file")
    length = duration(item.video)
    times = [length * i / (FRAMES - 1) for i in range(FRAMES)]
    lines = read_srt(file)
    return "\n".join(covering(lines, times) if each_once else at_times(lines, times))


def _first(item: Item, answer: str) -> Reading:
    return of_letter(item, first_letter(answer, VIDEO_PREFIXES, "ABCD"))


def _videomme(name: str, title: str, subtitles: bool, references: tuple[Reference, ...]) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        modality="video",
        expects="videomme/test-*.parquet, data/ID.mp4" + (", subtitle/ID.srt" if subtitles else ""),
        read=functools.partial(read, subtitles=subtitles),
        wordings={"lmms_eval": _lmms, "vlmevalkit": _vlmevalkit},
        rules={"lmms_eval": ranked, "vlmevalkit": _first},
        measures=accuracy("video", "domain", "task"),
        max_new_tokens=256,
        references=references,
        judge=match_option,
        judged="unreadable",
        note="lmms-eval's adapter of Ola drops most frames of a long video; here all 64 are seen",
    )


VIDEOMME = _videomme("videomme", "Video-MME, without subtitles", False, (Reference(PAPER, 68.4),))
VIDEOMME_SUBTITLES = _videomme("videomme_subtitles", "Video-MME, with subtitles", True, ())
