"""Other people's implementations as oracles: the fixtures ``timm`` and ``torchvision``, or a skip that says why not."""

from importlib.util import find_spec

import pytest

from benchmarks.peers import import_peer


def oracle(name):
    for package in ("torchvision", name):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install --no-deps {package}")
    return import_peer(name)


@pytest.fixture(scope="session")
def torchvision():
    return oracle("torchvision")


@pytest.fixture(scope="session")
def timm():
    return oracle("timm")
