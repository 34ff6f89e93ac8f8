"""Annotations to samples to batches."""

import rec.other_names  # noqa: F401 - tells rec.config which names are refused
