"""Model folders to and from a Hugging Face Hub.

Pushed are the files of a model folder, never optimizer state unless a checkpoint is named. Server and login are
the Hub client's own: ``HF_ENDPOINT``, ``HF_TOKEN`` or ``hf auth login``.
"""

import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rec.errors import RecError
from rec.files import link_or_copy, user_path
from rec.model_folder.format import (
    CONFIG,
    DIGESTS,
    FILES,
    WEIGHTS,
    ModelFolderError,
    check_digests,
    checked_file,
    digests,
)

_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between attempts
_WORTH_RETRYING = (408, 425, 429)


class HubError(RecError):
    """The Hub refused or could not be reached; the text says why and what to do."""


def push(
    folder: str | Path, repo_id: str, *, private: bool = True, message: str = "", checkpoint: str | Path | None = None
) -> str:
    """Upload a model folder, as one commit; interrupted requests are repeated.

    Args:
        folder: The model folder.
        repo_id: ``user/name``; made if it does not exist.
        private: Whether a new repository is private.
        message: Of the commit.
        checkpoint: A checkpoint folder to upload too, optimizer state included, as ``checkpoint/``.

    Returns:
        The repository's address.

    Raises:
        ModelFolderError: ``folder`` is not a model folder or a damaged one, or a file of it or of the checkpoint is a link to
            elsewhere, whose content nobody meant to publish.
        HubError: the Hub refused, or every attempt failed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = user_path(folder)
    files = {name: checked_file(folder, name) for name in FILES if (folder / name).exists()}
    if WEIGHTS not in files or CONFIG not in files:
        raise ModelFolderError(f"{folder} is not a model folder: it needs {WEIGHTS} and {CONFIG}")
    if checkpoint is not None:
        checkpoint = user_path(checkpoint)
        state = sorted(path.name for path in checkpoint.iterdir() if not path.is_dir())
        if "trainer_state.json" not in state:
            raise ModelFolderError(f"{checkpoint} is not a checkpoint: it has no trainer_state.json")
        files |= {f"checkpoint/{name}": checked_file(checkpoint, name) for name in state}
    contents: dict[str, str | bytes] = {name: str(path) for name, path in files.items()}
    if not check_digests(folder):  # the repository may have those of files before these
        contents[DIGESTS] = json.dumps(digests(folder), indent=1).encode()
    api = HfApi()
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
    what = f"push to {repo_id} on {api.endpoint}"
    address = _repeated(what, lambda: api.create_repo(repo_id, private=private, exist_ok=True))
    # Uploads that got through are remembered in the operations, so a repeated commit does not send them again.
    _repeated(what, lambda: api.preupload_lfs_files(repo_id, additions, free_memory=False))
    _repeated(
        what, lambda: api.create_commit(repo_id, additions, commit_message=message or f"Model folder {folder.name}")
    )
    return str(address)


def pull(source: str) -> Path:
    """Download ``user/name`` or ``user/name@revision`` into the Hub's cache; only the files of a model folder.

    Raises:
        HubError: no such repository or revision, or the Hub cannot be reached and the cache has no copy.
    """
    from huggingface_hub import HfApi

    repo_id, _, revision = source.partition("@")
    api = HfApi()
    fetch = lambda: api.snapshot_download(repo_id, revision=revision or None, allow_patterns=list(FILES))  # noqa: E731
    return Path(_repeated(f"download of {source} from {api.endpoint}", fetch, attempts=4))


def _repeated(what: str, action: Callable[[], Any], attempts: int = len(_DELAYS) + 1) -> Any:
    """The action's result; repeated while the trouble may pass."""
    from huggingface_hub import constants, errors

    for delay in (*_DELAYS[: attempts - 1], None):
        try:
            return action()
        except errors.HFValidationError as error:
            raise HubError(f"{what}: {error}") from error
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise HubError(
                f"{what}: there is no such repository or revision, or it is private; check the name, or log in with "
                "`hf auth login`"
            ) from error
        except (errors.HTTPError, OSError) as error:
            response = getattr(error, "response", None)
            status = getattr(response, "status_code", None)
            if constants.is_offline_mode():
                cached = " and the cache has no copy" if what.startswith("download") else ""
                raise HubError(f"{what}: offline (HF_HUB_OFFLINE is set){cached}") from error
            if status is not None and 400 <= status < 500 and status not in _WORTH_RETRYING:
                hint = "; log in with `hf auth login`, or check your rights" if status in (401, 403) else ""
                raise HubError(f"{what} was refused ({status}): {_clean(error)}{hint}") from error
            if delay is None:
                raise HubError(f"{what} failed {attempts} times, at last with: {_clean(error)}") from error
            time.sleep(delay)
    raise AssertionError("the last attempt returns or raises")


def _clean(error: Exception) -> str:
    """The first line of an error, without anything that looks like an access token."""
    return re.sub(r"hf_\w+", "hf_…", (str(error).strip().splitlines() or [type(error).__name__])[0])


class Pusher:
    """Pushes model folders in the background while training goes on. For the main process.

    A folder is linked aside at once, so it may be replaced while its upload runs; a newer one supersedes one waiting.
    Failures are reported, never raised; the newest folder that did not get through is tried again by :meth:`close`.

    Args:
        repo_id: ``user/name``.
        private: Whether a new repository is private.
        report: Receives one line for each push or failure.
    """

    def __init__(self, repo_id: str, *, private: bool = True, report: Callable[[str], None] = print):
        self.repo_id, self.private, self.report = repo_id, private, report
        self._changed = threading.Condition()
        self._cleaned: set[Path] = set()
        self._waiting: tuple[Path, str] | None = None
        self._failed: tuple[Path, str] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="hub push", daemon=True)
        self._thread.start()

    def push(self, folder: str | Path, message: str) -> None:
        """Push ``folder`` as it is now; returns at once."""
        folder, copy = Path(folder), None
        if folder.parent not in self._cleaned:  # of a process that was killed while pushing
            for left_over in folder.parent.glob(".push-*"):
                shutil.rmtree(left_over, ignore_errors=True)
            self._cleaned.add(folder.parent)
        try:
            copy = Path(tempfile.mkdtemp(prefix=".push-", dir=folder.parent))
            for name in FILES:
                if name in (WEIGHTS, CONFIG) or (folder / name).is_file():
                    link_or_copy(folder / name, copy / name)
        except OSError as error:
            self.report(f"hub: {folder} could not be set aside for its push: {error}")
            if copy is not None:
                shutil.rmtree(copy, ignore_errors=True)
            return
        with self._changed:
            for superseded in filter(None, (self._waiting, self._failed)):
                shutil.rmtree(superseded[0], ignore_errors=True)
            self._waiting, self._failed = (copy, message), None
            self._changed.notify()

    def close(self) -> bool:
        """Wait for the running push and try the newest failed one again; True if nothing is left unpushed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._failed is not None:
            last, self._failed = self._failed, None
            self._push(*last, last_try=True)
        if self._failed is not None:
            shutil.rmtree(self._failed[0], ignore_errors=True)
        return self._failed is None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                if self._waiting is None:
                    return
                job, self._waiting = self._waiting, None
            self._push(*job)

    def _push(self, copy: Path, message: str, last_try: bool = False) -> None:
        try:
            address = push(copy, self.repo_id, private=self.private, message=message)
        except Exception as error:  # training must go on whatever the Hub or its client does
            later = "given up: push the folder with `rec push`" if last_try else "training goes on, tried again later"
            self.report(f"hub: {_clean(error)}; {later}")
            with self._changed:
                if self._waiting is None:
                    self._failed = (copy, message)
                    return
        else:
            self.report(f"hub: pushed to {address} ({message})")
        shutil.rmtree(copy, ignore_errors=True)
