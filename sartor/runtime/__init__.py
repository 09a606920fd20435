"""What serves a trained network: the classifier, the engines it runs on, export. Importing it imports no torch."""

from sartor.runtime.classifier import ImageClassifier

__all__ = ["ImageClassifier"]
