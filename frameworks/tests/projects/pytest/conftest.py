import pytest


@pytest.fixture(scope="module")
def shared():
    return []


@pytest.fixture
def broken():
    raise RuntimeError("no such service")


@pytest.fixture
def leaky():
    yield
    raise RuntimeError("could not clean up")
