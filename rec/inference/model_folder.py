"""The old place of :mod:`rec.model_folder`."""

from rec.names import moved

__getattr__ = moved(__name__, "rec.model_folder")
