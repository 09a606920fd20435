import pytest
import torch

from sartor.core import files


@pytest.fixture(autouse=True, scope="package")
def quick_and_alone():
    """One thread; and no waiting for the disk, which only a power cut would show."""
    patch = pytest.MonkeyPatch()
    patch.setattr(files, "_sync", lambda path: None)
    torch.set_num_threads(1)
    yield
    patch.undo()
