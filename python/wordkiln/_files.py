"""Files that are either the old ones or the new ones, whole: written to a temporary name, fsynced, renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from wordkiln.errors import PathError, WordkilnError


def write_file(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Replace the file at `path` by `content` (str as UTF-8), creating its folder where it is missing.

    Raises:
        PathError: it cannot be written; the old file, if any, is untouched.
    """
    with replace_file(path) as temporary, open(temporary, "xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a name to write a file under; when the block ends without an error it becomes `path`.

    Raises:
        PathError: it cannot be written; the old file, if any, is untouched.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, WordkilnError):
            raise
        raise _not_writable(path, error) from error


@contextlib.contextmanager
def write_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends without an error it becomes `path`, replacing what was there.

    A kill at any moment leaves the old or the new folder under `path`, or (between the two renames that replacing
    a folder takes) the old one as `.NAME.old-*` beside it, and the next write puts that one back first.

    Raises:
        PathError: it cannot be written; the old folder, if any, is untouched.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover_directory(path)
        temporary.mkdir()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _not_writable(path, error) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
            else:
                _sync_directory(file)
        _sync_directory(temporary)
        old = path.with_name(f".{path.name}.old-{secrets.token_hex(4)}")
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
        _sync_directory(path.parent)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        if isinstance(error, PathError):
            raise
        raise _not_writable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_directory(path: str | os.PathLike[str]) -> None:
    """Put back the folder that a kill in the middle of `write_directory` left under its other name."""
    path = Path(path)
    left = sorted(path.parent.glob(f".{path.name}.old-*"))
    if left and not path.exists():
        os.rename(left.pop(), path)
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)


def _not_writable(path: Path, error: OSError | ValueError) -> PathError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return PathError(f"{str(path)!r}: cannot be written: {reason}")


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.new-{secrets.token_hex(4)}")


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
