"""Losses that plans name."""
