"""The words everything else uses; imports no heavy library."""
