"""A model folder: ``rec.from_pretrained("photo-small")``. Nothing is imported from here."""
