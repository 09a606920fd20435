"""What the papers claim, shown at a size that a CPU can train: data and one function for each reproduction."""
