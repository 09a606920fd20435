"""What self-supervised methods minimise. Vectors are (n, width); every loss is a mean over examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each view's partner among all other views by cosine (Chen et al. 2020, equation 1)."""
    views = F.normalize(torch.cat([first, second]), dim=1)
    logits = (views @ views.T / temperature).fill_diagonal_(float("-inf"))
    n = len(first)
    return F.cross_entropy(logits, torch.arange(2 * n, device=views.device).roll(n))


def info_nce(query: Tensor, key: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding a query's key before all ``others`` (m, width) (He et al. 2020, equation 1).

    Queries and keys are normalised here, ``others`` are already.
    """
    query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ others.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


def byol_loss(prediction: Tensor, projection: Tensor) -> Tensor:
    """2 - 2 cos: 0 where they point the same way, 4 where opposite ways (Grill et al. 2020, equation 2)."""
    return 2.0 - 2.0 * F.cosine_similarity(prediction, projection, dim=1).mean()


def dino_loss(student: Tensor, teacher: Tensor, centre: Tensor, temperatures: tuple[float, float]) -> Tensor:
    """Cross-entropy of the student's softmax against the teacher's centred and sharpened one (Caron et al. 2021).

    ``temperatures`` are the student's and the teacher's; ``centre`` is (width,).
    """
    wanted = torch.softmax((teacher - centre) / temperatures[1], 1)
    return -(wanted * torch.log_softmax(student / temperatures[0], 1)).sum(1).mean()


def masked_error(given: Tensor, patches: Tensor, hidden: Tensor, eps: float = 1e-6) -> Tensor:
    """Mean square error on the ``hidden`` (n, length; 1 or 0) patches (n, length, pixels) (He et al. 2022).

    Each patch is normalised by its own mean and variance first.
    """
    mean, variance = patches.mean(2, keepdim=True), patches.var(2, keepdim=True)
    errors = (given - (patches - mean) / (variance + eps) ** 0.5).square().mean(2)
    return (errors * hidden).sum() / hidden.sum()
