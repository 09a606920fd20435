"""Saved networks: a folder or hub repository with ``model.safetensors``, ``config.json`` and a model card."""

from __future__ import annotations

from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from sartor.core.cost import FIELDS
from sartor.core.errors import SpecError, WeightsError
from sartor.core.files import replacing_folder, size_of, write_atomic, write_json
from sartor.core.units import format_amount
from sartor.models.network import build, count
from sartor.weights.config import MALFORMED, config_of, read_config
from sartor.weights.load import load_weights
from sartor.weights.locate import CARD, CONFIG, PATIENCE, WEIGHTS, find_config, find_weights
from sartor.weights.read import short


def save_pretrained(network: Any, folder: str | Path) -> Path:
    """Write a network to a folder: ``model.safetensors``, ``config.json``, and ``README.md`` if there is none.

    A new folder appears whole or not at all; in one that exists each file is replaced whole and others are left.
    Weights keep their number format. Where timm has the architecture, timm opens the folder too.
    """
    folder = Path(folder)
    if folder.exists():
        write_network(network, folder, folder.name)
    else:
        with replacing_folder(folder) as new:
            write_network(network, new, folder.name)
    return folder


def from_pretrained(
    source: str | Path, *, num_classes: int | None = None, in_channels: int | None = None, device: str = "cpu"
) -> Any:
    """The network saved in a folder or a hub repository, ours or timm's, in float32 and in evaluation mode.

    Other ``num_classes`` or ``in_channels`` than the saved adapt the ends as ``load_weights`` does. Raises
    WeightsError for what cannot be found, trusted or built.
    """
    config, weights = find_config(source), find_weights(source)
    spec = read_config(config)
    try:
        params = count(spec).amounts["params"].value
        if params > size_of(weights):  # no number format has less than a byte
            raise WeightsError(f"{config}: describes {params:.3g} parameters, more than {weights.name} can hold")
        changes = {"classes": num_classes, "channels": in_channels}
        network = build(spec.replace(**{k: v for k, v in changes.items() if v is not None}), device="meta")
    except (SpecError, *MALFORMED) as error:
        raise WeightsError(f"{config}: describes no network that can be built ({short(error)})") from None
    return load_weights(network, weights, device=device).eval()


def push_to_hub(network: Any, repo: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Upload what ``save_pretrained`` writes to the hub repository ``owner/name``; returns the commit's URL.

    The repository is made if it is missing; a model card it has already is left. Raises WeightsError if the hub
    refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    from sartor.weights.hub import HubModel

    try:
        there = set[str]()
        with suppress(RepositoryNotFoundError):
            there = {file.rfilename for file in HfApi(token=token).model_info(repo, timeout=PATIENCE).siblings or ()}
        kept = [CARD] if CARD in there else None
        return HubModel(network, repo).push_to_hub(repo, private=private, token=token, ignore_patterns=kept)
    except Exception as error:  # of whichever HTTP library the hub's client uses
        raise WeightsError(f"hub {repo}: not pushed ({short(error)}); check the name and `hf auth login`") from None


def write_network(network: Any, folder: Path, source: str) -> None:
    """Write the files of a saved network into ``folder``; its card says to open ``source``."""
    from safetensors.torch import save  # save_file would leave temporary files of its own when killed

    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    write_atomic(folder / WEIGHTS[0], save(state, metadata={"format": "pt"}))
    config = config_of(network)
    write_json(folder / CONFIG, config)
    if not (folder / CARD).exists():
        write_atomic(folder / CARD, _card(network.spec, config.get("architecture"), source))


def _card(spec: Any, name: str | None, source: str) -> str:
    cost, (height, width) = count(spec).amounts, spec.size
    figures = {key: format_amount(cost[key].value, FIELDS[key]) for key in ("params", "macs")}
    template = files("sartor.weights").joinpath("card.md").read_text(encoding="utf-8")
    return template.format(
        name=name or spec.kind,
        source=source,
        classes=spec.classes,
        channels=spec.channels,
        height=height,
        width=width,
        **figures,
    )
