"""What serves a trained network: classifier, segmenter, engines to run them, export. Importing it imports no torch."""

from sartor.runtime.classifier import ImageClassifier
from sartor.runtime.segmenter import ImageSegmenter

__all__ = ["ImageClassifier", "ImageSegmenter"]
