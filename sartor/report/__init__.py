"""What a run found, for people: the report page, the picture of the front, the model card."""
