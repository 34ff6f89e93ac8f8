"""Model folders: the format (:mod:`~rec.model_folder.format`), reading what may be a stranger's, writing, finding, hubs."""

from rec.model_folder.format import ModelFolderError, describe_origin, from_run, knows_shapes_only
from rec.model_folder.reader import read
from rec.model_folder.writer import write

__all__ = ["ModelFolderError", "describe_origin", "from_run", "knows_shapes_only", "read", "write"]
