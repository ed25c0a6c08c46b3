"""A builder of TFDS for records of Ola: for `tfds build`, and for Beam on many machines.

`ola data prepare` needs neither, and can be interrupted. The files of both are read in the same way; write
the index of what was built by `ola data check FOLDER`.
"""

import abc
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

from ola_jax.data.blocks import Block, split_into_blocks
from ola_jax.data.checking import isolated
from ola_jax.data.prepare import StoreSettings, store_record
from ola_jax.data.processor import Processor
from ola_jax.data.shards import features, to_example
from ola_jax.data.sources import Source, open_table
from ola_jax.errors import OlaError, describe, require

require("data", "tensorflow_datasets", "array_record")

import tensorflow_datasets as tfds  # noqa: E402  (after the check that it is installed)

logger = logging.getLogger(__name__)

BLOCK_RECORDS = 64  # that one worker of Beam handles at a time


class OlaRecords(tfds.core.GeneratorBasedBuilder, abc.ABC):
    """The data set of one source; a subclass names the source and the processor.

    With `use_beam` the records are a Beam pipeline, which runs where `DownloadConfig(beam_runner=...,
    beam_options=...)` says; all workers must be able to read the files. Bad records are left out, logged, and
    counted by Beam's metric `bad_records`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, use_beam: bool = False, file_format: str = "array_record", **settings: Any) -> None:
        super().__init__(file_format=file_format, **settings)
        self._use_beam = use_beam

    @abc.abstractmethod
    def configure(self) -> tuple[Source, Processor, StoreSettings]:
        """Returns the source, the processor of the model to be trained, and what is stored of media."""

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(builder=self, features=features(), disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        source, processor, settings = self.configure()
        count = len(open_table(source))
        if not self._use_beam:
            return examples(source, processor, settings, Block(0, 0, count))
        require("beam", "apache_beam")
        import apache_beam as beam  # a large library, which only this pipeline needs

        blocks = split_into_blocks(count, -(-count // BLOCK_RECORDS))
        return beam.Create(blocks) | beam.Reshuffle() | beam.FlatMap(_Read(source, processor, settings))


@dataclasses.dataclass(frozen=True)
class _Read:
    """The examples of a block, in a worker of Beam."""

    source: Source
    processor: Processor
    settings: StoreSettings

    def __call__(self, block: Block) -> Iterator[tuple[int, dict[str, Any]]]:
        import apache_beam as beam

        bad = beam.metrics.Metrics.counter("ola_jax", "bad_records")
        return examples(self.source, self.processor, self.settings, block, on_bad=bad.inc)


def examples(
    source: Source,
    processor: Processor,
    settings: StoreSettings,
    block: Block,
    on_bad: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the example of each good record of a block. Raises OlaError if a whole source is bad."""
    table, good = open_table(source), 0
    with isolated(processor) as own:
        for index in range(block.start, block.stop):
            try:
                stored, _ = store_record(table[index], source, own, settings)
                own.sample(stored, training=True, marks_are_text=source.marks_are_text)
                example = to_example(stored)
            except Exception as error:  # of this record
                logger.warning("left out %s[%d]: %s", source.records, index, describe(error))
                on_bad()
                continue
            good += 1
            yield index, example
    if not good and (block.start, block.stop) == (0, len(table)):
        raise OlaError(f"{source.records}: all {len(table)} records are bad; run `ola data check`")
