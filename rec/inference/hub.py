"""The old place of :mod:`rec.model_folder.hub`."""

from rec.names import moved

__getattr__ = moved(__name__, "rec.model_folder.hub")
