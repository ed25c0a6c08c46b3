import importlib.util
import logging

import pytest
import tensorflow_datasets as tfds

from ola_jax.data.checking import check_source
from ola_jax.data.prepare import StoreSettings, prepare_source
from ola_jax.data.sources import Source, open_table
from ola_jax.data.tfds_builder import OlaRecords
from ola_jax.errors import OlaError
from tests.data.made_up import tiny_processor, write_json
from tests.data.mixed_set import write_mixed_set

# Of TFDS, where Beam has an older protobuf installed.
pytestmark = pytest.mark.filterwarnings("ignore:label:DeprecationWarning")


class MixedSet(OlaRecords, skip_registration=True):
    """The data set of a file of records."""

    def __init__(self, records, root, **settings):
        self.source = Source(records, root)
        super().__init__(**settings)

    def configure(self):
        return self.source, tiny_processor(), StoreSettings()


def records(source):
    table = open_table(source)
    return [table[index] for index in range(len(table))]


def assert_built_as_prepared(builder, tmp_path):
    folder = Source(str(builder.data_dir))
    prepared = prepare_source(builder.source, tiny_processor(), tmp_path / "prepared")
    assert records(folder) == records(Source(str(prepared.folder)))
    assert check_source(folder, tiny_processor()).index.digest() == prepared.index.digest()


def test_what_tfds_builds_is_what_is_prepared(tmp_path, caplog):
    builder = MixedSet(write_mixed_set(tmp_path), str(tmp_path), data_dir=tmp_path / "tfds")
    with caplog.at_level(logging.WARNING, "ola_jax"):
        builder.download_and_prepare()
    assert [
        record.message.split(":")[0][-3:] for record in caplog.records if "left out" in record.message
    ] == [
        "[3]",
        "[7]",
        "11]",
    ]
    assert_built_as_prepared(builder, tmp_path)


def test_a_set_of_bad_records_only_is_an_error(tmp_path):
    builder = MixedSet(write_json(tmp_path, "r.json", [1]), str(tmp_path), data_dir=tmp_path / "tfds")
    with pytest.raises(OlaError, match="all 1 records are bad"):
        builder.download_and_prepare()


@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason='needs Beam: pip install "ola_jax[beam]" in an environment of its own, as its libraries are older',
)
@pytest.mark.filterwarnings("default")  # of Beam
def test_what_beam_builds_is_what_is_prepared(tmp_path):
    path = write_mixed_set(tmp_path)
    builder = MixedSet(path, str(tmp_path), data_dir=tmp_path / "tfds", use_beam=True)
    config = tfds.download.DownloadConfig(beam_runner="DirectRunner")
    builder.download_and_prepare(download_config=config)
    assert_built_as_prepared(builder, tmp_path)
