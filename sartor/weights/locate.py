"""Where a checkpoint is: a file, a folder that ``save_pretrained`` wrote, or a repository of the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sartor.core.errors import WeightsError
from sartor.weights.read import short

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in this order of preference
CONFIG = "config.json"
CARD = "README.md"

_HUB = re.compile(r"(?P<prefix>hf[-_]hub:)?(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>\S+))?")
_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pyth", ".tar")
PATIENCE = 10.0  # seconds to wait for the hub's first answer


def find_weights(source: str | Path) -> Path:
    """The local path of a checkpoint, fetched from the hub if it must be.

    ``source`` is a file, a folder, or a hub name ``owner/name``, ``hf-hub:owner/name`` or either with
    ``@revision``; what exists locally comes first. Raises WeightsError saying where was looked.
    """
    path = Path(source).expanduser()
    return path if path.is_file() else _find(source, path, WEIGHTS)


def find_config(source: str | Path) -> Path:
    """The local path of the ``config.json`` in a folder or a hub repository; raises WeightsError."""
    path = Path(source).expanduser()
    if path.is_file():
        raise WeightsError(
            f"{path} is a file; give the folder with {CONFIG}, or create_model(name, weights={path.name!r})"
        )
    return _find(source, path, (CONFIG,))


def _find(source: str | Path, path: Path, names: Sequence[str]) -> Path:
    if path.is_dir():
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None:
            raise WeightsError(f"folder {path} has no {' or '.join(names)}; give one that save_pretrained wrote")
        return found
    hub = _HUB.fullmatch(str(source))
    if hub is None or (not hub["prefix"] and str(source).endswith(_FILES)):
        raise WeightsError(
            f"weights {source}: no such file or folder, and not a hub name such as timm/resnet50.a1_in1k"
        )
    return _fetch(hub["repo"], hub["revision"], names)


def _fetch(repo: str, revision: str | None, names: Sequence[str]) -> Path:
    """The first of some files that a hub repository has; from the local cache where the hub cannot be reached."""
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        # one plain request before any download: it says what is there and, unlike a download, fails at once offline
        there = {
            file.rfilename for file in HfApi().model_info(repo, revision=revision, timeout=PATIENCE).siblings or ()
        }
    except errors.HFValidationError as error:
        raise WeightsError(f"weights {repo}: no such file or folder, and not a hub name ({short(error)})") from None
    except errors.RevisionNotFoundError:
        raise WeightsError(f"weights {repo}: the hub has no revision {revision!r} of it; see its page") from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(f"weights {repo}: not on the hub, or private; check the name or `hf auth login`") from None
    except Exception as error:  # of whichever HTTP library the hub's client uses
        return _cached(repo, revision, names, short(error))
    name = next((name for name in names if name in there), None)
    if name is None:
        raise WeightsError(f"weights {repo}: the repository has no {' or '.join(names)}; give another or a local file")
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except errors.GatedRepoError:
        text = f"weights {repo}: its owner must grant access; ask on its page, then `hf auth login`"
        raise WeightsError(text) from None
    except Exception as error:
        raise WeightsError(f"weights {repo}: fetching {name} failed ({short(error)}); try again") from None


def _cached(repo: str, revision: str | None, names: Sequence[str], reason: str) -> Path:
    from huggingface_hub import constants, errors, hf_hub_download

    for name in names:
        with suppress(errors.LocalEntryNotFoundError):
            return Path(hf_hub_download(repo, name, revision=revision, local_files_only=True))
    raise WeightsError(
        f"weights {repo}: the hub cannot be reached ({reason}) and its cache {constants.HF_HUB_CACHE} has no copy; "
        "connect once, or give a local file"
    )
