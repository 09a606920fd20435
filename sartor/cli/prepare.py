"""``sartor prepare``."""

from __future__ import annotations

from pathlib import Path


def prepare(
    source: Path,
    target: Path,
    /,
    *,
    more_than: int = 500,
    valid: int = 50,
    side: int = 224,
    keep_aspect: bool = False,
    hierarchy: Path | None = None,
) -> None:
    """Make a folder of class folders ready for pretraining, as ImageNet-21K was; the source is left as it is.

    TARGET gets train and valid folders, and with --hierarchy a tree.json for loss.hierarchy.

    Parameters
    ----------
    source
        A folder with a folder of images for each class.
    target
        A new folder.
    more_than
        Classes with no more images are dropped.
    valid
        So many of each class, the first by name, are validation images.
    side
        Larger images become squares of so many pixels a side.
    keep_aspect
        Give larger images a short edge of SIDE instead.
    hierarchy
        WordNet's data.noun, ImageNet's is_a list, or pairs of child and parent that hold every class that is kept.
    """
    from sartor.data.hierarchy import read_hierarchy
    from sartor.data.label_tree import label_tree, write_tree
    from sartor.data.process import process_folder

    known = read_hierarchy(hierarchy) if hierarchy else None  # what is wrong with it is said before any work
    done = process_folder(source, target, more_than=more_than, valid=valid, side=side, keep_aspect=keep_aspect)
    if known:
        names = sorted(folder.name for folder in (target / "train").iterdir())
        write_tree(label_tree(known, names), target / "tree.json")
    print(f"{done.classes} classes with {done.train} training and {done.valid} validation images in {target}")
    if done.dropped:
        print(f"{len(done.dropped)} classes of {more_than} images or fewer were dropped")
    for line in done.unreadable:
        print(f"left out: {line}")
