"""Asking the engine all questions of a benchmark, several at a time."""

import dataclasses
import pathlib
import queue
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from ola_jax.data.processor import Processor
from ola_jax.data.sample import Sample
from ola_jax.errors import OlaError
from ola_jax.eval.answers import Answer
from ola_jax.eval.clips import cut_clip
from ola_jax.eval.items import Clip, Item, Wording, WrittenMedia, to_record, write_embedded
from ola_jax.generate.engine import Completion, Engine, Piece, Request
from ola_jax.generate.sampling import with_options


@dataclasses.dataclass(frozen=True)
class Asking:
    """Settings of how questions are asked."""

    wording: Wording
    max_new_tokens: int
    sound: bool = True  # videos with their own sound track
    workers: int = 4  # questions whose media are decoded at the same time
    temperature: float = 0.0
    top_p: float | None = None
    stop: tuple[str, ...] = ()  # an answer ends before the first of these texts


def ask_all(engine: Engine, items: Iterable[Item], asking: Asking, receive: Callable[[Answer], None]) -> None:
    """Asks each item; `receive` gets the answers on this thread, in the order in which they end.

    The engine must have been started. A question that cannot be asked, for its media or its length, is
    answered with an error; a failure of the engine is raised.
    """
    sampling = with_options(engine.sampling, temperature=asking.temperature, top_p=asking.top_p)
    ended: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()

    def start(item: Item) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="ola_eval_") as folder:
                sample = make_sample(engine.processor, item, asking, pathlib.Path(folder))
            request = Request(sample, sampling, asking.max_new_tokens, stop=asking.stop)
            engine.submit(request, lambda event: _end(item, event, ended))
        except OlaError as error:
            ended.put(Answer(item.id, error=str(error)) if engine.status().alive else error)
        except BaseException as error:
            ended.put(error)

    room = min(asking.workers + engine.config.slots, engine.config.queue)
    waiting, under_way = iter(items), 0
    with ThreadPoolExecutor(asking.workers, thread_name_prefix="ola_eval") as pool:
        while True:
            while under_way < room and (item := next(waiting, None)) is not None:
                pool.submit(start, item)
                under_way += 1
            if not under_way:
                return
            answer = ended.get()
            under_way -= 1
            if isinstance(answer, BaseException):
                pool.shutdown(cancel_futures=True)
                raise answer
            receive(answer)


def make_sample(processor: Processor, item: Item, asking: Asking, folder: pathlib.Path) -> Sample:
    """The sample that asks an item; embedded media and cut clips are written below `folder`."""
    if "record" in item.fields:  # asked as it stands
        return processor.sample(item.fields["record"], _root(item))
    video: str | list[str] | None = None
    if isinstance(item.video, Clip):
        frames = processor.limits.max_frames
        video = processor.decode(cut_clip, item.video, frames, str(folder), None)
    elif item.video is not None:
        video = str(item.video)
    media = WrittenMedia(
        tuple(write_embedded(image, folder) for image in item.images),
        video,
        tuple(write_embedded(clip, folder) for clip in item.audio),
    )
    return processor.sample(to_record(item, asking.wording(item), media, sound=asking.sound))


def _root(item: Item) -> str:
    """The folder that the media of a record are below: of those it may be, the first where they are."""
    record, roots = item.fields["record"], item.fields["roots"]
    refs = [record[key] for key in ("image", "video", "audio", "audio_q") if record.get(key)]
    paths = [
        path for ref in refs for path in (ref if isinstance(ref, list) else [ref]) if isinstance(path, str)
    ]
    return str(next((root for root in roots if all((root / path).exists() for path in paths)), roots[0]))


def _end(item: Item, event: Piece | Completion, ended: "queue.SimpleQueue[Answer | BaseException]") -> None:
    if isinstance(event, Piece):
        return
    if event.error is not None:
        ended.put(Answer(item.id, error=event.error))
    elif event.finish_reason == "cancelled":
        ended.put(OlaError("the engine was closed"))
    else:
        ended.put(
            Answer(
                item.id,
                event.text,
                event.finish_reason,
                event.prompt_tokens,
                len(event.ids),
                round(event.seconds, 3),
            )
        )
