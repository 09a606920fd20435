"""Other people's implementations as oracles: the fixtures ``timm`` and ``torchvision``, or a skip that says why not.

torchvision's wheels bring compiled operators for one build of PyTorch. Beside another build they do not load, and
importing torchvision, which timm does, fails where it describes two of them. It is enough that operators of these
names exist; nothing here calls them.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

DECLARED = (
    "nms(Tensor boxes, Tensor scores, float threshold) -> Tensor",
    "qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor",
)


def oracle(name):
    """The module ``name``, once torchvision can be imported."""
    for package in ("torchvision", name):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install --no-deps {package}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import_module("torchvision")
        except RuntimeError:
            library = torch.library.Library("torchvision", "FRAGMENT")
            for schema in DECLARED:
                library.define(schema)
            import_module("torchvision").declared = library  # declarations last as long as this object
        return import_module(name)


@pytest.fixture(scope="session")
def torchvision():
    return oracle("torchvision")


@pytest.fixture(scope="session")
def timm():
    return oracle("timm")
