import pytest

from ola_jax.data import Source
from tests.data.made_up import write_records


@pytest.fixture
def source(tmp_path):
    """Twenty records, every third with an image."""
    return Source(write_records(tmp_path, 20), str(tmp_path))
