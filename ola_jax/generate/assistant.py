"""A model that is asked questions: from a checkpoint directory to answers, in one object."""

import abc
import dataclasses
import functools
import os
import pathlib
import uuid
from collections.abc import Callable, Sequence
from typing import Literal

from ola_jax.checkpoint import load_configs
from ola_jax.data.isolation import IsolatedDecoder
from ola_jax.data.processor import Processor
from ola_jax.errors import OlaError
from ola_jax.generate.conversation import Question, check_question, conversation_record
from ola_jax.generate.engine import EngineConfig, Request
from ola_jax.generate.loading import load_weights
from ola_jax.generate.one_slot import ONE_SLOT, OneSlot
from ola_jax.generate.sampling import SamplingConfig, from_generation_config, with_options
from ola_jax.models.ola import Ola
from ola_jax.speech.pipeline import SpeechStream
from ola_jax.typing import Params

Path = str | os.PathLike[str]
NEW_TOKENS = 1024  # of an answer, if nothing else is said
POSITIONS = 32_768  # of a prompt and its answer together: what Qwen2.5 is made for


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer; `str(reply)` is its text."""

    text: str
    ids: tuple[int, ...]  # the stop id included
    prompt_ids: tuple[int, ...]  # -300 stands for an image or video, -200 for audio
    tokens: dict[str, int]  # of the prompt, by modality: text, image, video, audio
    prefill_seconds: float  # until the first token; compilation included, as below
    decode_seconds: float
    cached_tokens: int  # of the prompt, which were in the cache from an earlier turn

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True)
class Options:
    """How a question is answered."""

    sampling: SamplingConfig
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...]
    stream: Callable[[str], object] | None
    speech: SpeechStream | None

    def receive(self, text: str) -> None:
        """The next piece of the answer."""
        if self.speech is not None:
            self.speech.write(text)
        if self.stream is not None:
            self.stream(text)


class Answers(abc.ABC):
    """What can be asked: an assistant, and a conversation with one."""

    sampling: SamplingConfig  # what `ask` takes for options that it is not given

    def ask(
        self,
        text: str = "",
        images: Path | Sequence[Path] = (),
        video: Path | None = None,
        audio: Path | None = None,
        sound: bool = True,
        *,
        stream: Callable[[str], object] | None = None,
        max_new_tokens: int = NEW_TOKENS,
        temperature: float | int | None = None,
        top_p: float | int | None = None,
        top_k: int | None = None,
        min_p: float | int | None = None,
        repetition_penalty: float | int | None = None,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        speech: SpeechStream | None = None,
    ) -> Reply:
        """The answer to a question.

        Audio beside images is a spoken question about them; audio beside a video takes the place of the
        video's own sound track, which is used unless `sound` is False. `stream` is called with each piece
        of the text as it comes; the pieces together are the text, but for space around it. Options of
        sampling left out are the checkpoint's (temperature 0 is greedy). The answer ends before the first
        of the texts `stop`. `speech` speaks the answer while it is written: its `wait` returns when all has
        been spoken, and it is interrupted if the answer fails. Raises OlaError for a question that cannot be
        asked.
        """
        images = (images,) if isinstance(images, str | os.PathLike) else images
        path = lambda file: None if file is None else os.fspath(file)
        question = Question(
            text, tuple(os.fspath(image) for image in images), path(video), path(audio), sound
        )
        check_question(question, max_new_tokens, seed)
        sampling = with_options(
            self.sampling,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
        )
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        return self._answer(question, Options(sampling, max_new_tokens, seed, stops, stream, speech))

    @abc.abstractmethod
    def _answer(self, question: Question, options: Options) -> Reply:
        """The answer to a question that has been checked."""


@dataclasses.dataclass(frozen=True, eq=False)
class Assistant(Answers):
    """Answers questions about images, a video, audio, or in plain text.

        assistant = Assistant.from_pretrained("runs/golden")
        print(assistant.ask("What is this?", images=["cat.png"]))

    The parameters are read for the first answer and stay in memory; what is compiled for one answer serves
    all others. It is an engine with one slot: what is asked from several threads is answered in turn.
    """

    model: Ola
    load_params: Callable[[], Params]
    processor: Processor
    sampling: SamplingConfig
    # gets a line before each program that is compiled
    report: Callable[[str], None] = lambda line: None
    config: EngineConfig = ONE_SLOT

    @classmethod
    def from_pretrained(
        cls,
        directory: Path,
        dtype: Literal["float32", "bfloat16"] | None = None,
        report: Callable[[str], None] = lambda line: None,
        *,
        weights: Literal["int8"] | None = None,
        cache: Literal["int8"] | None = None,
    ) -> "Assistant":
        """The model of an ola_jax checkpoint; its matrix products are of `dtype`, or as the model says.

        `weights` "int8": the decoder's matrices are made int8 while they are read; `cache` "int8": so are
        keys and values. Media are decoded in a process of its own, which is ended where it takes too long.
        """
        directory = pathlib.Path(directory)
        config, _, generation = load_configs(directory)
        if dtype not in (None, "float32", "bfloat16"):
            raise OlaError(f"dtype is {dtype!r}; expected 'float32', 'bfloat16' or None")
        processor = Processor.from_pretrained(directory, preset="infer")
        sampling = from_generation_config(
            generation, processor.tokenizer.get_vocab_size(), str(directory / "generation_config.json")
        )
        decode = IsolatedDecoder(processor.processor_config.media.decode_seconds)
        engine_config = dataclasses.replace(ONE_SLOT, weights=weights, cache=cache)
        return cls(
            Ola(dataclasses.replace(config, dtype=dtype) if dtype else config),
            lambda: load_weights(directory, engine_config),
            dataclasses.replace(processor, decode=decode),
            sampling,
            report,
            engine_config,
        )

    @functools.cached_property
    def params(self) -> Params:
        """The parameters, read once."""
        return self.load_params()

    @functools.cached_property
    def engine(self) -> OneSlot:
        """What answers."""
        longest = max(POSITIONS, self.processor.processor_config.max_length)
        params = lambda: self.params
        return OneSlot(self.model, params, self.processor, self.sampling, longest, self.report, self.config)

    def chat(self) -> "Chat":
        """A conversation of several questions."""
        return Chat(self)

    def close(self) -> None:
        """End the thread that answers; the next question begins another."""
        self.engine.close()

    def _answer(self, question: Question, options: Options) -> Reply:
        return self.chat()._answer(question, options)


class Chat(Answers):
    """A conversation: every question is asked after those before it, with their media and answers.

    All media are in one record: any number of images or one video, and one audio. A question that cannot be
    asked raises OlaError and leaves the conversation as it was. Of earlier turns the model reads again only
    what is not in its cache any more.
    """

    def __init__(self, assistant: Assistant):
        self._assistant, self.sampling = assistant, assistant.sampling
        self._key = uuid.uuid4().hex  # of what the engine keeps of this conversation
        self.turns: tuple[tuple[Question, Reply], ...] = ()

    def _answer(self, question: Question, options: Options) -> Reply:
        assistant = self._assistant
        questions = [*(asked for asked, _ in self.turns), question]
        record = conversation_record(questions, [reply.text for _, reply in self.turns])
        sample = assistant.processor.sample(record)
        request = Request(
            sample,
            options.sampling,
            options.max_new_tokens,
            options.seed,
            options.stop,
            conversation=self._key,
        )
        try:
            completion = assistant.engine.answer(request, options.receive)
        except BaseException:
            if options.speech is not None:
                options.speech.interrupt()
            raise
        if options.speech is not None:
            options.speech.finish()
        reply = Reply(
            completion.text.strip(),
            completion.ids,
            tuple(sample.prompt_ids.tolist()),
            sample.counts,
            completion.first_token_seconds - completion.queue_seconds,
            completion.seconds - completion.first_token_seconds,
            completion.cached_tokens,
        )
        self.turns = (*self.turns, (question, reply))
        return reply
