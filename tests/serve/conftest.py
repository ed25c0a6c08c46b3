"""A server with an engine without a model, shared by the tests of a module."""

from collections.abc import Iterator

import pytest

from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import Running, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(FakeEngine(parity.processor("infer"))) as found:
        yield found
