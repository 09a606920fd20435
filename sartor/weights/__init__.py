"""Checkpoints in and out: local files and the hub, safetensors first, never by running pickled code."""

from sartor.weights.load import load_weights
from sartor.weights.pretrained import from_pretrained, push_to_hub, save_pretrained

__all__ = ["from_pretrained", "load_weights", "push_to_hub", "save_pretrained"]
