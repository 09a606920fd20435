"""Side-by-side timings with peers: ``python -m benchmarks [names]``."""
