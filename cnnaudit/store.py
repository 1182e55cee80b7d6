"""A content-addressed store of finished work: atomic to write, verified when read, resumable.

A cell lies at ``<root>/<first two digits>/<key>/``. It is complete when its ``done.json`` is there
and every file it lists has the size and digest it states; that the files exist proves nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnaudit.types import AuditError

SCHEMA = 3  # raise when the content of a cell changes its meaning
DONE = "done.json"


def digest_bytes(content: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Return the one JSON text that equal values share (sorted keys, no spaces, no NaN)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def cell_key(fields: Mapping[str, Any]) -> str:
    """Return the address of the cell that these fields determine."""
    return digest_bytes(canonical_json({"schema": SCHEMA, **fields}).encode())


class Store:
    """Finished cells below one folder, shared by any number of runs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, key: str) -> bool:
        """Say whether a complete, undamaged cell lies at a key; set a damaged one aside.

        A cell that was written to be computed again does not count.
        """
        folder = self._folder(key)
        if not folder.is_dir():
            return False
        done = _verified(folder)
        if done is None:
            self._set_aside(folder)
        return done is not None and not done["again"]

    def read(self, key: str, name: str) -> bytes:
        """Return one file of a cell, verified; raise AuditError if it is missing or damaged."""
        folder = self._folder(key)
        try:
            stated = json.loads((folder / DONE).read_bytes())["files"][name]
            content = (folder / name).read_bytes()
        except (OSError, ValueError, KeyError) as error:
            raise AuditError(
                f"the store {self.root} has no complete cell {key[:12]}… with {name!r}; "
                "run the audit again to compute it"
            ) from error
        if digest_bytes(content) != stated["sha256"]:
            raise AuditError(
                f"{folder / name} was altered after it was written; run the audit again"
            )
        return content

    def path(self, key: str, name: str) -> Path:
        """Return where one file of a cell lies, for those that are too large to be read whole."""
        return self._folder(key) / name

    def write(
        self,
        key: str,
        files: Mapping[str, bytes],
        fields: Mapping[str, Any],
        *,
        again: bool = False,
    ) -> None:
        """Write a cell beside its place and move it there whole; the first of two writers wins.

        A cell in which something failed is written to be computed `again`: it can be read, but the
        next run does not take it for finished, and replaces it.
        """
        folder = self._folder(key)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft = folder.with_name(f".draft-{uuid.uuid4().hex}")
            draft.mkdir()  # not mkdtemp: its folders are nobody else's to read
        except OSError as error:
            raise _cannot_write(self.root, error) from error
        try:
            for name, content in files.items():
                _write_through(draft / name, content)
            _write_through(draft / DONE, _done(files, fields, again))
            _move(draft, folder)
        except OSError as error:
            raise _cannot_write(self.root, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _folder(self, key: str) -> Path:
        return self.root / key[:2] / key

    def _set_aside(self, folder: Path) -> None:
        aside = self.root / "damaged"
        try:
            aside.mkdir(parents=True, exist_ok=True)
            folder.rename(aside / f"{folder.name}-{uuid.uuid4().hex[:8]}")
        except FileNotFoundError:  # another run set it aside first
            pass
        except OSError as error:
            raise _cannot_write(self.root, error) from error


def check_writable(folder: Path, key: str) -> None:
    """Make a folder and try a file in it, before hours of work depend on it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise AuditError(
            f"{key}: cannot write to {folder} ({_why(error)}); name a folder that can be written"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    try:
        _write_through(draft, content)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise AuditError(f"cannot write {path} ({_why(error)})") from error


def _done(files: Mapping[str, bytes], fields: Mapping[str, Any], again: bool) -> bytes:
    stated = {
        name: {"size": len(content), "sha256": digest_bytes(content)}
        for name, content in files.items()
    }
    done = {"schema": SCHEMA, "again": again, "files": stated, "fields": dict(fields)}
    return canonical_json(done).encode()


def _verified(folder: Path) -> dict[str, Any] | None:
    """Return what a cell's ``done.json`` states, or None if its files are not as it states."""
    try:
        done: dict[str, Any] = json.loads((folder / DONE).read_bytes())
        whole = isinstance(done["again"], bool) and all(
            digest_file(folder / name) == stated["sha256"] for name, stated in done["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return done if whole else None


def _move(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        done = _verified(folder)
        if done is None or done["again"]:
            folder.rename(draft.with_name(draft.name + "-old"))
            draft.rename(folder)
            shutil.rmtree(draft.with_name(draft.name + "-old"))
        # Else it is the same cell, written by another run meanwhile.


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _cannot_write(root: Path, error: OSError) -> AuditError:
    return AuditError(f"store_dir: cannot write to the store {root} ({_why(error)})")


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
