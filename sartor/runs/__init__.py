"""Run directories, executors and the one fit loop."""
