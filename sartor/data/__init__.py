"""Readers of the formats users have, one file per format, and what is done to images before training."""
