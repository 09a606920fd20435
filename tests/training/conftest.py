import pytest
import torch

from sartor.core import files


@pytest.fixture(autouse=True)
def quick_and_alone(monkeypatch):
    """One thread; and no waiting for the disk, which only a power cut would show."""
    monkeypatch.setattr(files, "_sync", lambda path: None)
    torch.set_num_threads(1)
