"""Stages and pipelines of retrieval, their indexes, encoders and scorers, and the systems of the papers."""
