"""The one Kafka of a session, for the tests that ask for it; a clear line says why there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import LONG
from tools.kafka_for_tests import Kafka, start_kafka, why_not

# The first test of a session waits for Java, and for Maven when `make test-long` could not fetch before.
KAFKA_TEST_TIMEOUT_S = 600


@pytest.fixture(scope="session")
def kafka_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker of this session (of this worker under pytest-xdist)."""
    if not LONG:
        pytest.skip("Kafka is tested by `make test-long`")
    if reason := why_not():
        pytest.skip(reason)
    kafka = start_kafka(tmp_path_factory.mktemp("kafka"))
    yield kafka
    kafka.kill()
