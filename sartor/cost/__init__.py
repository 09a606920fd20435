"""What models cost: counted from specs, measured on this machine."""
