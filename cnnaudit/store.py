"""A content-addressed store of finished work: atomic to write, verified when read, resumable.

A cell lies at ``<root>/<first two digits>/<key>/``. It is complete when its ``done.json`` is there
and every file it lists has the digest it states; that the files exist proves nothing. One of them,
``fields.json``, tells what determined the key.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from cnnaudit.types import AuditError

SCHEMA = 5  # raise when the content of a cell changes its meaning
DONE, FIELDS = "done.json", "fields.json"

_ABANDONED = 3600  # seconds since anything was written into a draft

Files = dict[str, bytes]  # of a cell: name → content

log = logging.getLogger(__name__)


def digest_bytes(content: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:  # most are small: hashlib's own buffer is 256 kB
        while part := file.read(1 << 16):
            digest.update(part)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """Return the one JSON text that equal values share (sorted keys, no spaces, no NaN)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_json(value: Any) -> str:
    """Return the digest of the one JSON text that equal values share."""
    return digest_bytes(canonical_json(value).encode())


def digest_list(values: Iterable[Any]) -> str:
    """Return the digest of the canonical JSON of a list, which is never there as a whole."""
    digest = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        digest.update(f"{',' * bool(number)}{canonical_json(value)}".encode())
    digest.update(b"]")
    return digest.hexdigest()


def cell_key(fields: Mapping[str, Any]) -> str:
    """Return the address of the cell that these fields determine."""
    return digest_json({"schema": SCHEMA, **fields})


class Store:
    """Finished cells below one folder, shared by any number of runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stated: dict[str, dict[str, str]] = {}  # key → SHA-256 of a finished cell's files

    def has(self, key: str) -> bool:
        """Say whether a complete, undamaged cell lies at a key; set a damaged one aside.

        A cell that was written to be computed again does not count. Raises AuditError if what lies
        there cannot be read.
        """
        folder = self._folder(key)
        try:
            if not folder.exists():
                return False
            done = _verified(folder)
        except OSError as error:
            raise _cannot_read(folder, error) from error
        if done is None:
            self._set_aside(folder)
            return False
        if done["again"]:
            return False
        self._stated[key] = _digests(done)
        return True

    def read(self, key: str, name: str) -> bytes:
        """Return one file of a cell, verified; raise AuditError if it is missing or damaged."""
        folder = self._folder(key)
        try:
            stated = self._stated.get(key)
            if stated is None:
                done = json.loads((folder / DONE).read_bytes())
                stated = _digests(done)
                if not done["again"]:  # or it may be replaced
                    self._stated[key] = stated
            digest, content = stated[name], (folder / name).read_bytes()
        except _DAMAGED as error:
            raise self._lacks(key, name) from error
        except OSError as error:
            raise _cannot_read(folder, error) from error
        if digest_bytes(content) != digest:
            raise AuditError(
                f"{folder / name} was altered after it was written; run the audit again"
            )
        return content

    def fields(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """Yield what determined the key of each cell, and whether something in it failed.

        Those that were set aside as damaged are among them.
        """
        for path in chain(self.root.glob(f"??/*/{DONE}"), self.root.glob(f"damaged/*/{DONE}")):
            try:
                done, fields = (
                    json.loads(file.read_bytes()) for file in (path, path.with_name(FIELDS))
                )
                yield fields, bool(done["again"])
            except (OSError, ValueError, KeyError, TypeError):
                continue

    def sweep(self) -> None:
        """Remove what was being written when its process was killed, an hour ago or more."""
        for draft in self.root.glob("??/.draft-*"):
            with suppress(OSError):  # a folder of another's, or one that is swept at the same time
                if time.time() - draft.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(draft)

    def path(self, key: str, name: str) -> Path:
        """Return where one file of a cell lies, for those that are too large to be read whole."""
        return self._folder(key) / name

    def size(self, key: str, name: str) -> int:
        """Return how many bytes one file of a cell has; raise AuditError if it is missing."""
        try:
            return self.path(key, name).stat().st_size
        except OSError as error:
            raise self._lacks(key, name) from error

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
            files = {**files, FIELDS: canonical_json(fields).encode()}
            for name, content in files.items():
                _write_through(draft / name, content)
            _write_through(draft / DONE, _done(files, again))
            self._place(draft, folder)
        except OSError as error:
            raise _cannot_write(self.root, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _lacks(self, key: str, name: str) -> AuditError:
        return AuditError(
            f"the store {self.root} has no complete cell {key[:12]}… with {name!r}; "
            "run the audit again to compute it"
        )

    def _folder(self, key: str) -> Path:
        return self.root.joinpath(key[:2], key)

    def _place(self, draft: Path, folder: Path) -> None:
        """Move a cell into its place, unless one lies there that is as good."""
        old = draft.with_name(f"{draft.name}-old")
        while not _renamed(draft, folder):
            done = _verified(folder)
            if done is None:
                self._set_aside(folder)
            elif done["again"] and done != _verified(draft):
                shutil.rmtree(old, ignore_errors=True)  # of a round in which another was faster
                with suppress(FileNotFoundError):  # another run does the same
                    folder.rename(old)
            else:
                break  # written by another run meanwhile
        shutil.rmtree(old, ignore_errors=True)

    def _set_aside(self, folder: Path) -> None:
        aside = self.root / "damaged"
        place = aside / f"{folder.name}-{uuid.uuid4().hex[:8]}"
        try:
            aside.mkdir(parents=True, exist_ok=True)
            folder.rename(place)
            if _verified(place) is not None and _renamed(place, folder):
                return  # another run had just put a whole one in the place of the damaged one
        except FileNotFoundError:  # another run set it aside first
            pass
        except OSError as error:
            raise _cannot_write(self.root, error) from error
        else:
            log.warning("a damaged cell of the store was set aside as %s", place)


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


def check_no_link(folder: Path) -> None:
    """Refuse a run directory in which a link lies; it may be somebody else's.

    What a link leads to would be read into a report that is mailed, or be written over.
    """
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise AuditError(
                f"{path} is a link, which may lead anywhere; a run directory has only files of its "
                "own: copy the file itself there, if you know it"
            )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    with drafted(path) as draft:
        draft.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON as `write_atomically` does; NaN is refused."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode("utf-8", "backslashreplace"))


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Yield where to write a file, which takes its place when it is whole; raise AuditError."""
    # A name that nobody can foresee, or a link that lies there would lead the content elsewhere.
    draft = path.with_name(f".{path.name}.draft-{uuid.uuid4().hex[:12]}")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise AuditError(f"cannot write {path} ({_why(error)})") from error
    finally:
        with suppress(OSError):  # nothing was drafted where nothing can be written
            draft.unlink()


def _done(files: Mapping[str, bytes], again: bool) -> bytes:
    stated = {
        name: {"size": len(content), "sha256": digest_bytes(content)}
        for name, content in files.items()
    }
    return canonical_json({"schema": SCHEMA, "again": again, "files": stated}).encode()


def _digests(done: Mapping[str, Any]) -> dict[str, str]:
    return {name: stated["sha256"] for name, stated in done["files"].items()}


# What reading a cell raises that is not as it was written, or that another run moves meanwhile.
_DAMAGED = (
    *(FileNotFoundError, IsADirectoryError, NotADirectoryError),
    *(ValueError, KeyError, TypeError, AttributeError),
)


def _verified(folder: Path) -> dict[str, Any] | None:
    """Return what a cell's ``done.json`` states, or None if its files are not as it states.

    Another run may replace the cell meanwhile: then the new one is read.
    """
    while True:
        stated = _stated(folder)
        try:
            done: dict[str, Any] = json.loads(stated)
            whole = isinstance(done["again"], bool) and all(
                digest_file(folder / name) == one["sha256"] for name, one in done["files"].items()
            )
        except _DAMAGED:
            whole = False
        if whole or _stated(folder) == stated:
            return done if whole else None


def _stated(folder: Path) -> bytes:
    """Return a cell's ``done.json`` as it stands, b"" where there is none."""
    try:
        return (folder / DONE).read_bytes()
    except _DAMAGED:
        return b""


def _renamed(draft: Path, folder: Path) -> bool:
    """Rename a folder, or say that something is in its way."""
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _cannot_read(folder: Path, error: OSError) -> AuditError:
    """It may be whole, and the disk, the permissions or a limit on open files at fault."""
    return AuditError(f"store_dir: cannot read {folder} in the store ({_why(error)})")


def _cannot_write(root: Path, error: OSError) -> AuditError:
    return AuditError(f"store_dir: cannot write to the store {root} ({_why(error)})")


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__  # Arrow's have a text alone
