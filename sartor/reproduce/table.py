"""The reproductions by name."""

from __future__ import annotations

from sartor.core.registry import Table
from sartor.reproduce.reproduction import Reproduction

REPRODUCTIONS: Table[Reproduction] = Table(
    "reproduction",
    {
        "resnext": "sartor.reproduce.resnext:REPRODUCTION",
        "wide-resnet": "sartor.reproduce.wide_resnet:REPRODUCTION",
        "preact-resnet": "sartor.reproduce.preact_resnet:REPRODUCTION",
        "depth-mup": "sartor.reproduce.depth_mup:REPRODUCTION",
        "resnet-strikes-back": "sartor.reproduce.resnet_strikes_back:REPRODUCTION",
        "imagenet21k": "sartor.reproduce.imagenet21k:REPRODUCTION",
        "hardnet-segmentation": "sartor.reproduce.hardnet_segmentation:REPRODUCTION",
        "pathology-pretraining": "sartor.reproduce.pathology_pretraining:REPRODUCTION",
        "regnet": "sartor.reproduce.regnet:REPRODUCTION",
    },
)
