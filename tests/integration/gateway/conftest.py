"""One house for all tests; each test begins with both Sparks up and a key of its own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.gateway.house import House
from tests.lab import packages


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Configured and running; HAProxy is installed where it is missing."""
    packages.install_missing()
    house = House(tmp_path_factory.mktemp("house"))
    yield house
    house.end()


@pytest.fixture
def house(built: House) -> House:
    built.calm()
    return built


@pytest.fixture
def client(house: House) -> Iterator[httpx.Client]:
    """With a key that no other test uses: rates are counted by key."""
    with house.client(next(house.free_keys)) as client:
        yield client
