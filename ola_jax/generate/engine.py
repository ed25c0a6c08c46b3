"""Many requests answered at once, each as if it were alone."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np

from ola_jax.checkpoint import load_configs
from ola_jax.data.isolation import IsolatedDecoder
from ola_jax.data.processor import Processor
from ola_jax.errors import OlaError, describe
from ola_jax.generate.device import Device, Report
from ola_jax.generate.jobs import Job
from ola_jax.generate.loading import load_weights
from ola_jax.generate.pace import Call, Pace
from ola_jax.generate.prompts import prompt
from ola_jax.generate.requests import (
    MAX_STOP_STRINGS,
    SEEDS,
    Completion,
    EngineConfig,
    EngineStatus,
    FinishReason,
    Handle,
    Listener,
    Piece,
    QueueFullError,
    Request,
)
from ola_jax.generate.reuse import KeptFeatures, Remains, SlotRemains
from ola_jax.generate.sampling import SamplingConfig, from_generation_config, with_end
from ola_jax.generate.slots import MAX_STOP_IDS, NO_ID
from ola_jax.models.ola import Ola
from ola_jax.typing import Array, Params

__all__ = [
    "Completion",
    "Engine",
    "EngineConfig",
    "EngineStatus",
    "Handle",
    "Piece",
    "QueueFullError",
    "Request",
]


DEFAULT = EngineConfig()


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    """A call of the device that has not been waited for."""

    call: Call
    result: Array  # tokens [steps rows], or one; or anything, if there are no jobs
    jobs: dict[int, Job] = dataclasses.field(default_factory=dict)  # by column, those whose tokens it makes
    asked: float = dataclasses.field(default_factory=time.monotonic)


class Engine:
    """A fixed number of slots, in each of which one request is answered.

    Prompts are read one at a time: media part by part, large images layer by layer, then tokens chunk by
    chunk; between a few of these pieces all running answers advance by a few tokens. No shape depends on
    other requests, so that an answer is the same, bit for bit, alone and among others, whenever it came and
    whoever was there before.

    The device is asked for the next tokens before the last ones are read, so that it does not wait for the
    host. Stop ids and the number of tokens end an answer on the device; what it has made of an answer that
    ended by a stop string, or was cancelled, meanwhile is dropped.

    All work is done by one thread (`start`); `submit`, `cancel` and `status` may be called from any.
    """

    def __init__(
        self,
        model: Ola,
        params: Params,
        processor: Processor,
        sampling: SamplingConfig,
        config: EngineConfig = DEFAULT,
        report: Report = lambda line: None,
    ):
        """`report` gets a line before each program is used, and compiled, for the first time."""
        self.processor, self.config = processor, config
        self.sampling = sampling  # the checkpoint's, for requests that ask for nothing else
        self._device = Device(model, params, config, report)
        self._remains = SlotRemains(config.slots, config.prefill_chunk)
        self._features = KeptFeatures(config.kept_features)
        self._waiting: collections.deque[Job] = collections.deque()
        self._reading: collections.deque[Job] = collections.deque()
        self._running: dict[int, Job] = {}  # by slot
        self._asked: collections.deque[_Asked] = collections.deque()
        self._pace = Pace()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._finishing = False
        self._failure: str | None = None
        self._last_step = time.monotonic()
        self._steps = self._generated_tokens = self._prompt_tokens = 0
        self._finished: dict[str, int] = dict.fromkeys(("stop", "length", "cancelled", "error"), 0)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], config: EngineConfig = DEFAULT) -> "Engine":
        """An engine for an ola_jax checkpoint. Its processor decodes media in a process of its own."""
        directory = pathlib.Path(directory)
        model_config, _, generation = load_configs(directory)
        processor = Processor.from_pretrained(directory, preset="infer")
        decode = IsolatedDecoder(processor.processor_config.media.decode_seconds)
        sampling = from_generation_config(
            generation, processor.tokenizer.get_vocab_size(), str(directory / "generation_config.json")
        )
        processor = dataclasses.replace(processor, decode=decode)
        return cls(Ola(model_config), load_weights(directory, config), processor, sampling, config)

    def warm_up(self, report: Report = lambda line: None) -> None:
        """Compile all programs before requests come; `report` gets a line before each.

        Before `start`. Images of unusual shapes may still need one more, when they come.
        """
        self._device.report = report
        vision = self.model.config.vision
        side = self.processor.limits.high_res_max_side // vision.patch_size if vision else 0
        for _ in self._device.rehearse(min(side * side, 4 * self.config.length)):
            pass

    @property
    def model(self) -> Ola:
        """The model, computed as `config` says."""
        return self._device.model

    def start(self) -> None:
        """Begin to work on requests, in a thread of its own."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="ola_jax engine", daemon=True)
            self._thread.start()

    def close(self, finish: bool = True) -> None:
        """Take no more requests, and end when those that came are finished; without `finish`, cancel them."""
        with self._changed:
            self._closing, self._finishing = True, finish
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        else:
            self._work()

    def __enter__(self) -> "Engine":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(finish=kind is None)

    def submit(self, request: Request, listener: Listener = lambda piece: None) -> Handle:
        """Queue a request. `listener` gets its pieces and then its completion, on the engine's thread.

        A listener that raises ends its own request. Raises OlaError for a request that cannot be answered,
        and QueueFullError if too many wait.
        """
        self._check(request)
        handle = Handle(self._wake)
        job = Job(
            request,
            prompt=prompt(request.sample, self.model.config),
            stop_ids=with_end(request.sampling, self.processor.tokenizer).stop_ids,
            tokenizer=self.processor.tokenizer,
            listener=listener,
            handle=handle,
        )
        with self._changed:
            if self._failure:
                raise OlaError(f"the engine has stopped: {self._failure}")
            if self._closing:
                raise OlaError("the engine is closed")
            if len(self._waiting) >= self.config.queue + self._remains.free:
                raise QueueFullError(f"{len(self._waiting)} requests wait already; try again later")
            if not self._busy():
                self._last_step = time.monotonic()
            self._waiting.append(job)
            self._prompt_tokens += len(job.prompt.tokens)
            self._changed.notify_all()
        return handle

    def status(self) -> EngineStatus:
        """The state of the engine."""
        running = [*self._reading.copy(), *self._running.copy().values()]
        age = time.monotonic() - self._last_step if self._busy() else None
        return EngineStatus(
            slots=self.config.slots,
            running=len(running),
            waiting=len(self._waiting),
            cache_tokens_used=sum(job.tokens for job in running),
            cache_tokens=self.config.slots * self.config.length,
            last_step_age_seconds=age,
            steps=self._steps,
            finished=dict(self._finished),
            generated_tokens=self._generated_tokens,
            prompt_tokens=self._prompt_tokens,
            alive=self._failure is None,
        )

    def _check(self, request: Request) -> None:
        """Raises OlaError for a request that cannot be answered."""
        sample, new, most = request.sample, request.max_new_tokens, self.config.length
        if new < 1:
            raise OlaError(f"max_new_tokens is {new}; it must be 1 or more")
        if not 0 <= request.seed < SEEDS:
            raise OlaError(f"seed is {request.seed}; it must be from 0 to {SEEDS - 1}")
        if not len(sample.tokens):
            raise OlaError("the prompt is empty")
        if len(sample.tokens) + new > most:
            raise OlaError(
                f"the prompt has {len(sample.tokens)} tokens and max_new_tokens is {new}; together at most "
                f"{most} are allowed: lower max_new_tokens or shorten the prompt"
            )
        stop_ids = with_end(request.sampling, self.processor.tokenizer).stop_ids
        if len(stop_ids) > MAX_STOP_IDS:
            raise OlaError(f"{len(stop_ids)} ids end the answer; at most {MAX_STOP_IDS} are possible")
        if len(request.stop) > MAX_STOP_STRINGS or not all(request.stop):
            raise OlaError(f"stop: expected at most {MAX_STOP_STRINGS} texts, none of them empty")

    def _busy(self) -> bool:
        return bool(self._waiting or self._reading or self._running)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # What follows runs on the engine's thread.

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._busy() and not self._closing:
                    self._changed.wait()
                if self._closing and not self._finishing:
                    break
                if self._closing and not self._busy():
                    break
            try:
                self._turn()
            except Exception as error:
                self._fail(error)
        for job in self._all_jobs():
            self._finish(job, "cancelled")

    def _turn(self) -> None:
        """Asks for a piece of a prompt and for tokens of each answer; takes what was asked for before."""
        for job in self._all_jobs():
            if job.handle.cancelled:
                self._finish(job, "cancelled")
        self._admit()
        if self._reading and self._reading[0].parts:  # whose encoding is waited for, and measured
            while self._asked:
                self._take(self._asked.popleft())
        earlier = len(self._asked)
        if self._reading:
            self._read_prompts()
        for first, jobs in self._groups().items():
            self._advance(first, jobs)
        for _ in range(earlier or len(self._asked)):
            self._take(self._asked.popleft())

    def _read_prompts(self) -> None:
        """Read pieces of prompts for as long as the running answers can wait, at least one."""
        calls = len(self._groups())
        began, share, pieces = time.monotonic(), self._pace.share(calls), self._pace.pieces(calls)
        while self._reading:
            job = self._reading[0]
            with self._guarded(job):
                if not self._encode(job):
                    self._read(job)
                    pieces -= 1
            if not pieces or time.monotonic() - began > share:
                break

    def _admit(self) -> None:
        """Give free slots to those who wait."""
        with self._changed:
            while self._waiting and self._remains.free:
                job = self._waiting.popleft()
                slot, cached = self._remains.take(job.request.conversation, job.identity)
                job.begin(slot, cached)
                self._reading.append(job)

    def _read(self, job: Job) -> None:
        """Read a chunk of tokens and, after the last, begin the answer."""
        assert job.slot is not None, "only a request that has a slot is read"
        prompt, request = job.prompt, job.request
        start, length = job.read, len(prompt.tokens)
        end = min(start + self.config.prefill_chunk, length)
        hidden = self._device.read(job.slot, start, prompt.tokens[start:end], prompt.source[start:end])
        job.read = end
        if end < length:
            self._asked.append(_Asked("piece", hidden))
            return
        first = self._device.begin(
            job.slot,
            hidden,
            sampling=request.sampling,
            stop_ids=job.stop_ids,
            seed=request.seed,
            places=length,
            new_tokens=request.max_new_tokens,
        )
        job.asked = 1
        self._asked.append(_Asked("piece", first, {0: job}))
        with self._changed:
            self._reading.remove(job)
            self._running[job.slot] = job

    def _encode(self, job: Job) -> bool:
        """Encode a piece of the media, and wait for it; False if there is none."""
        if job.encoding is None:
            self._put_known_features(job)
            if not job.parts:
                return False
            job.encoding = self._device.encode(job.parts[0].content)
        features = next(job.encoding)
        self._stepped()
        if features is not None:
            job.encoding = None
            part, conversation = job.parts.popleft(), job.request.conversation
            if conversation is not None:
                self._features.add(conversation, part.digest, features)
            self._device.put(features, part.row)
        return True

    def _put_known_features(self, job: Job) -> None:
        """Put the next parts of the media into the table for as long as an earlier turn had them encoded."""
        conversation = job.request.conversation
        while conversation is not None and job.parts:
            features = self._features.get(conversation, job.parts[0].digest)
            if features is None:
                break
            self._device.put(features, job.parts.popleft().row)

    def _groups(self) -> dict[int, dict[int, Job]]:
        """The running answers that may have more tokens: by the first slot of their call, and by slot."""
        groups: dict[int, dict[int, Job]] = {}
        for slot, job in self._running.items():
            if job.asked < job.request.max_new_tokens:
                groups.setdefault(slot - slot % self._device.rows, {})[slot] = job
        return groups

    def _advance(self, first: int, jobs: dict[int, Job]) -> None:
        """Ask for a few tokens of each of these answers, the first of which may be in slot `first`."""
        columns = {slot - first: job for slot, job in jobs.items()}
        going = np.zeros(self._device.rows, bool)
        going[list(columns)] = True
        made = self._device.advance(first, going)
        for job in jobs.values():
            job.asked += self.config.steps
        self._asked.append(_Asked("answers", made, columns))

    def _take(self, asked: _Asked) -> None:
        """Wait for a call of the device, and hand its tokens to the answers that still run."""
        jax.block_until_ready(asked.result)
        self._stepped()
        self._pace.finish(asked.call, asked.asked, self._last_step)
        if not asked.jobs:
            return
        made = np.asarray(asked.result)
        for column, job in asked.jobs.items():
            if job.slot is not None and self._running.get(job.slot) is job:
                ids = made[:, column] if made.ndim else made[None]
                self._add(job, ids[ids != NO_ID].tolist())

    def _add(self, job: Job, ids: list[int]) -> None:
        before = len(job.ids)
        with self._guarded(job):
            reason = job.add(ids)
            if reason is not None:
                self._finish(job, reason)
        self._generated_tokens += len(job.ids) - before

    def _stepped(self) -> None:
        self._steps += 1
        self._last_step = time.monotonic()

    @contextlib.contextmanager
    def _guarded(self, job: Job) -> Iterator[None]:
        """An error in the work for one request ends that request, unless the device's data are lost."""
        try:
            yield
        except Exception as error:
            if self._device.lost:
                raise
            self._finish(job, "error", describe(error))

    def _finish(self, job: Job, reason: FinishReason, error: str | None = None) -> None:
        """End a request and free its slot."""
        with self._changed:
            for queue in (self._waiting, self._reading):
                if job in queue:
                    queue.remove(job)
            if job.slot is not None:
                self._running.pop(job.slot, None)
                self._remains.give_back(job.slot, self._remaining(job))
                job.slot = None
        self._finished[reason] += 1
        with contextlib.suppress(Exception):  # a listener that raises harms nobody else
            job.deliver(job.completion(reason, error))

    def _remaining(self, job: Job) -> Remains | None:
        if job.request.conversation is None or job.identity is None:
            return None
        whole = job.read // self.config.prefill_chunk * self.config.prefill_chunk
        return Remains(job.request.conversation, job.identity[:whole])

    def _fail(self, error: Exception) -> None:
        """The device has failed: end everything."""
        with self._changed:
            self._failure = describe(error)
            self._closing, self._finishing = True, False
        for job in self._all_jobs():
            self._finish(job, "error", self._failure)

    def _all_jobs(self) -> list[Job]:
        with self._changed:
            return [*self._waiting, *self._reading, *self._running.values()]
