"""The engine's side of the device: parameters, slots and features there, and the programs that use them."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ola_jax.batch import MARKS, TEXT
from ola_jax.data.sample import ImagePatches
from ola_jax.generate import encoding, slots
from ola_jax.generate.choosing import settings
from ola_jax.generate.loading import arranged, decoder_mesh, weight_shardings
from ola_jax.generate.requests import EngineConfig
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.models.ola import Ola
from ola_jax.models.qwen2 import KVCache
from ola_jax.sharding import platform
from ola_jax.typing import Array, Bool, Float, HostArray, Int, Params

Report = Callable[[str], None]  # gets a line before a program is used, and compiled, for the first time


class Device:
    """What lies on the device; each method is one call of a program there."""

    def __init__(self, model: Ola, params: Params, config: EngineConfig, report: Report):
        dtype = config.dtype or model.config.dtype
        self.model = Ola(dataclasses.replace(model.config, dtype=dtype, attention=config.attention))
        self.report, self._used = report, set[str]()
        self._config = config
        self._mesh = decoder_mesh(config, model.config)
        params = arranged(params, config, separate=bool(config.separate_layers))
        self._params = jax.device_put(params, self._parameter_places(params))
        with self._on_mesh():
            self.rows = slots.count_rows(config.slots, platform())  # slots that one call advances
        whole_calls = -(-config.slots // self.rows) * self.rows
        positions = -(-config.length // config.prefill_chunk) * config.prefill_chunk  # whole chunks

        def empty() -> tuple[KVCache, slots.Answering]:
            state = slots.empty_slots(self.model, whole_calls, positions, jnp.dtype(config.cache or dtype))
            return state.cache, state.answering

        state = jax.jit(empty, out_shardings=self._slot_places())()
        first = jax.tree.leaves(self._params)[0]
        if self._mesh is None and first.committed:
            # Else the second call would find other inputs than the first, and compile again.
            state = jax.device_put(state, _replicated(first.sharding))
        self._cache, self._answering = state
        rows = encoding.table_rows(self.model.config, config.length)
        self._table = encoding.empty_table(self.model, self._params, rows)

    def _parameter_places(self, params: Params) -> Params | None:
        """Where each parameter belongs; None: where it is, or on the default device."""
        if self._mesh is None:
            return None
        separate = "0" in params["llm"]["layers"]
        return weight_shardings(self._config, self.model.config, self._mesh, separate)

    def _slot_places(self) -> tuple[NamedSharding, NamedSharding] | None:
        """Of the cache, whose key heads are split, and of the rest, which is replicated."""
        if self._mesh is None:
            return None
        split = NamedSharding(self._mesh, PartitionSpec(None, None, None, "tensor"))
        return split, NamedSharding(self._mesh, PartitionSpec())

    def _on_mesh(self) -> contextlib.AbstractContextManager[object]:
        """For the decoder's programs. Those of the encoders are the same on every device."""
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

    @property
    def lost(self) -> bool:
        """True if a program failed that had taken over the cache, the state of the answers or the table."""
        kept = jax.tree.leaves((self._cache, self._answering, self._table))
        return any(array.is_deleted() for array in kept)

    def encode(self, content: ImagePatches | HostArray) -> Iterator[Float[Array, "rows D"] | None]:
        """The features of a part of the media, and padding, behind None for each piece; waits for each."""
        if isinstance(content, ImagePatches):
            self._first_use(f"images of up to {encoding.window_size(len(content.patches))} patches")
        else:
            self._first_use("audio")
        return encoding.encode(self.model, self._params, content)

    def put(self, features: Float[Array, "rows D"], row: int) -> None:
        """Write features into the table that `read` looks them up in."""
        self._table = encoding.put(self._table, features, np.asarray(row, np.int32))

    def read(
        self, slot: int, start: int, tokens: Int[HostArray, "l"], source: Int[HostArray, "l"]
    ) -> Float[Array, "D"]:
        """Read at most `prefill_chunk` tokens into a slot's cache; the hidden state of the last of them."""
        self._first_use("prompts")
        padding = (0, self._config.prefill_chunk - len(tokens))
        with self._on_mesh():
            self._cache, hidden = slots.read_chunk(
                self.model,
                self._params,
                self._cache,
                np.asarray(slot, np.int32),
                np.asarray(start, np.int32),
                np.asarray(len(tokens) - 1, np.int32),
                np.pad(tokens, padding),
                np.pad(source, padding, constant_values=TEXT),
                self._table,
            )
        return hidden

    def begin(
        self,
        slot: int,
        hidden: Float[Array, "D"],
        *,
        sampling: SamplingConfig,
        stop_ids: Sequence[int],
        seed: int,
        places: int,
        new_tokens: int,
    ) -> Int[Array, ""]:
        """Begin an answer behind a prompt of `places` tokens; its first token, not waited for."""
        self._first_use("the first token of answers")
        padded = np.full((1, slots.MAX_STOP_IDS), slots.NO_ID, np.int32)
        padded[0, : len(stop_ids)] = stop_ids
        start = slots.Start(
            settings=settings(sampling, self.model.config.llm.vocab_size),
            stop_ids=padded,
            seed=np.asarray(seed, np.uint32),
            places=np.asarray(places, np.int32),
            new_tokens=np.asarray(new_tokens, np.int32),
        )
        with self._on_mesh():
            self._answering, token = slots.begin(
                self.model, self._params, self._answering, np.asarray(slot, np.int32), hidden, start
            )
        token.copy_to_host_async()
        return token

    def advance(self, first: int, going: Bool[HostArray, "rows"]) -> Int[Array, "steps rows"]:
        """A few new tokens for each of the slots from `first` on, fewer where its answer ends (NO_ID).

        Those that are not `going` are stopped. The tokens are not waited for.
        """
        self._first_use("answers")
        state = slots.Slots(cache=self._cache, answering=self._answering)
        with self._on_mesh():
            state, made = slots.advance(
                self.model,
                self._params,
                state,
                np.asarray(first, np.int32),
                going,
                self._config.steps,
                self.rows,
            )
        self._cache, self._answering = state.cache, state.answering
        made.copy_to_host_async()
        return made

    def rehearse(self, most_patches: int) -> Iterator[None]:
        """Use every program once, those for images of up to `most_patches` among them; change no answer."""
        model = self.model.config
        blanks: list[ImagePatches | HostArray] = []
        if model.vision:
            width = 3 * model.vision.patch_size**2
            blanks += [_blank(size, width) for size in encoding.window_sizes(most_patches)]
        if model.has_audio:
            blanks.append(np.zeros(model.chunk_samples, np.float32))
        for blank in blanks:
            features = [features for features in self.encode(blank) if features is not None]
            self.put(features[-1], len(MARKS))
            yield
        nothing = np.zeros(1, np.int32)
        hidden = self.read(0, 0, nothing, nothing + TEXT)
        yield
        # It ends with its first token.
        self.begin(0, hidden, sampling=SamplingConfig(), stop_ids=(), seed=0, places=1, new_tokens=1)
        yield
        self.advance(0, np.zeros(self.rows, bool))

    def _first_use(self, program: str) -> None:
        if program not in self._used:
            self._used.add(program)
            self.report(f"compiling the program for {program}")


def _blank(patches: int, width: int) -> ImagePatches:
    side = math.isqrt(patches)
    return ImagePatches(np.zeros((patches, width), np.uint8), (side, side))


def _replicated(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """The sharding of an array that is replicated on the same devices."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding
