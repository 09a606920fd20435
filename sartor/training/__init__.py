"""Training: the one loop, plans, recipes, augmentation, optimisers."""
