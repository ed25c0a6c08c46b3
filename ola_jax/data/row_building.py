"""Building rows: the records of a planned row become samples, and these a row. It does not import JAX."""

import dataclasses
from collections.abc import Generator, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from ola_jax.data.index import Failure, RecordSize
from ola_jax.data.measure import by_headers, describe_failure, sample_size
from ola_jax.data.processor import Processor
from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.data.records import message_prefix
from ola_jax.data.rows import RowFields, assemble_row, needs, row_use
from ola_jax.data.sample import Sample
from ola_jax.data.sources import Source
from ola_jax.data.tables import RecordTable
from ola_jax.data.worker_processes import ClosedError
from ola_jax.row import Budget

STEPS_OF_16_BITS = 2**15  # of audio in whole numbers: from 0 to 1


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedRecord:
    """A record of a row, before it is decoded."""

    source: int
    index: int  # in the source
    record: JsonRecord | Malformed | Failure | None  # a failure: known not to be usable; None: read it
    size: RecordSize | None = None  # in the index; None: not known yet


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A row, and what is in it."""

    fields: RowFields  # without padding at their ends; audio in 16 bits if that is exact
    records: tuple[tuple[int, int, str], ...]  # source, index and id of the record of each sample
    use: dict[str, int]  # room that is used, by field of the budget
    holes: tuple[tuple[int, int, Failure], ...]  # source, index and reason of records that failed


@dataclasses.dataclass(frozen=True, eq=False)
class RowBuilder:
    """Builds the rows of a run, in any process."""

    processor: Processor
    sources: tuple[Source, ...]
    budget: Budget
    tables: Sequence[RecordTable | None] = ()  # of sources whose records are read here

    def build(self, planned: Sequence[PlannedRecord]) -> Generator[int, None, Row]:
        """Returns a row of these records; yields the number of each before it is decoded, and a last one."""
        made: list[Sample | Failure] = []
        for number, each in enumerate(planned):
            yield number
            made.append(self.sample(each))
        yield len(planned)
        return self.assemble(planned, made)

    def measure(self, planned: Sequence[PlannedRecord]) -> Generator[RecordSize | Failure, None, None]:
        """Yields the size of each record, by the headers of its media where those suffice."""
        measuring = dataclasses.replace(self, processor=by_headers(self.processor))
        for each in planned:
            made = measuring.sample(each)
            if isinstance(made, Failure):
                yield made
            else:
                yield sample_size(made, self.read(each) if each.record is None else each.record)

    def sample(self, planned: PlannedRecord) -> Sample | Failure:
        """The sample of a record, or the reason why there is none."""
        source, record = self.sources[planned.source], planned.record
        if isinstance(record, Failure):
            return record
        try:
            record = self.read(planned) if record is None else record
            sample = self.processor.sample(
                record, source.root, training=True, marks_are_text=source.marks_are_text
            )
        except ClosedError:  # nothing is wrong with the record
            raise
        except Exception as error:
            return describe_failure(record, error)
        if planned.size is not None and (change := _difference(needs(sample), planned.size)):
            return Failure(
                "changed record",
                f"{message_prefix(record)}has {change} in its index: it or its media changed, or are damaged "
                "behind the header; `ola data check` writes a new index",
                planned.size.kind,
            )
        return sample

    def read(self, planned: PlannedRecord) -> JsonRecord | Malformed:
        """The record itself. Raises OlaError if its file cannot be read."""
        table = self.tables[planned.source]
        assert table is not None  # its records are sent
        return table[planned.index]

    def assemble(self, planned: Sequence[PlannedRecord], made: Sequence[Sample | Failure]) -> Row:
        """The row of these samples; a failure leaves a hole."""
        samples = [None if isinstance(each, Failure) else each for each in made]
        sizes = [
            each.size or (needs(sample) if sample else RecordSize({}, ()))
            for each, sample in zip(planned, samples, strict=True)
        ]
        fields = assemble_row(samples, sizes, self.budget, self.processor.config)
        keys = [(each.source, each.index) for each in planned]
        return Row(
            fields=fields,
            records=tuple(
                (*key, sample.id) for key, sample in zip(keys, samples, strict=True) if sample is not None
            ),
            use=row_use(fields, samples),
            holes=tuple(
                (*key, each) for key, each in zip(keys, made, strict=True) if isinstance(each, Failure)
            ),
        )


def build_compact(builder: RowBuilder, planned: Sequence[PlannedRecord]) -> Generator[int, None, Row]:
    """Returns what `RowBuilder.build` does, as small as it can be sent without any change."""
    row = yield from builder.build(planned)
    return dataclasses.replace(row, fields=compact(row.fields, row.use.get("audio_chunks", 0)))


def compact(fields: RowFields, chunks: int) -> RowFields:
    """A row without windows and chunks of padding at the end, audio in 16 bits where that is exact."""
    windows = np.flatnonzero(fields["patch_image"].any(axis=-1))
    used = int(windows[-1]) + 1 if len(windows) else 0
    shorter = {name: fields[name][:used] for name in ("patches", "patch_image", "patch_position")}
    return {**fields, **shorter, "audio": narrow_audio(fields["audio"][:chunks])}


def narrow_audio(audio: Float[np.ndarray, "C T"]) -> Shaped[np.ndarray, "C T"]:
    """The audio in steps of 16 bits, as int16, if that loses nothing; else unchanged."""
    whole = np.empty(audio.shape, np.int16)
    for chunk, narrow in zip(audio, whole, strict=True):
        scaled = chunk * np.float32(STEPS_OF_16_BITS)
        if not (scaled.min() >= -STEPS_OF_16_BITS and scaled.max() < STEPS_OF_16_BITS):  # or not a number
            return audio
        narrow[:] = scaled
        wide = narrow * np.float32(1 / STEPS_OF_16_BITS)
        if not np.array_equal(wide.view(np.int32), chunk.view(np.int32)):  # the sign of 0 as well
            return audio
    return whole


def _difference(found: RecordSize, planned: RecordSize) -> str:
    """The first difference between a sample and the size in its index; "" if there is none."""
    for field, count in found.counts.items():
        if count != (expected := planned.counts.get(field, 0)):
            return f"{count} {field.replace('_', ' ')}, and {expected}"
    if found.patches != planned.patches:
        return f"images of {list(found.patches)[:8]} patches, and {list(planned.patches)[:8]}"
    return ""
