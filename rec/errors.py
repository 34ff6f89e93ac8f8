"""The errors of this project: one base, a few kinds below it.

Every message is one paragraph for the person in front of the screen: the file, record or config path, what was found,
what was expected, and what to do. The scripts print it without a traceback and end with status 2
(:func:`rec.command_line.exit_with`); what is not a :class:`RecError` is a defect of the program and keeps its traceback.

Where callers rightly expect a built-in type, a kind is that type too (``class ImageError(RecError, ValueError)``).
"""


class RecError(Exception):
    """Base of every error this project raises on purpose."""


class InputError(RecError):
    """What the user asked for cannot be done."""


class UntrustedError(RecError):
    """Something a stranger's file asks for is refused: to run, to read or write elsewhere, or to take too much memory."""


class TrainingError(RecError):
    """Training cannot go on."""


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the memory of a GPU or of the machine is full; torch has a kind of its own for each."""
    gpu = type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch")
    return gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


class CheckpointError(TrainingError):
    """A checkpoint cannot be read or does not fit."""


class OtherRunError(CheckpointError):
    """A checkpoint is of another model or optimizer: no older one of the same run would fit either."""
