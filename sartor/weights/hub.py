"""The hub's own mixin around a network, for what needs the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin

from sartor.weights.pretrained import write_network


class HubModel(ModelHubMixin):
    """A network as ``huggingface_hub`` pushes models. Networks themselves know nothing of the hub."""

    def __init__(self, network: Any, repo: str) -> None:
        self.network, self.repo = network, repo

    def _save_pretrained(self, save_directory: Path) -> None:
        write_network(self.network, save_directory, self.repo)
