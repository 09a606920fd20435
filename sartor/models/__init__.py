"""Networks as data: specs, the backbones built from them, and named families."""
