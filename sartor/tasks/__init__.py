"""Tasks, one file each: data, a loss and a metric."""
