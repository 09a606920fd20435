"""Training backbones without labels, or on weak ones, before they are fine-tuned on few."""
