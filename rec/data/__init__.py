"""Annotations to samples to batches."""
