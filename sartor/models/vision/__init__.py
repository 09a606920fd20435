"""Families for images: one file per family, a table of named specs beside it."""
