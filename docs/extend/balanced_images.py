"""Image classification in which rare classes count as much as frequent ones."""

from typing import ClassVar

from sartor.core.candidate import Metric
from sartor.tasks.image_classification import ImageClassification


class BalancedImages(ImageClassification):
    """Images with one class each, compared by the mean of the classes' accuracies."""

    metric: ClassVar[Metric] = Metric("balanced_accuracy")
