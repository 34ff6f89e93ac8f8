"""The old place of :mod:`rec.model_folder`."""

from rec.moved import moved

__getattr__ = moved(__name__, "rec.model_folder")
