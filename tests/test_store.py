"""The store: complete means verified, and two writers do no harm."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from cnnaudit import store as store_module
from cnnaudit.store import (
    Store,
    canonical_json,
    cell_key,
    check_writable,
    digest_bytes,
    digest_list,
    write_atomically,
)
from cnnaudit.types import AuditError

KEY = cell_key({"kind": "test"})
FILES = {"rows.parquet": b"some rows", "more.json": b"{}"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _folder(store: Store) -> Path:
    return store.root / KEY[:2] / KEY


def test_what_was_written_is_read_again(store: Store) -> None:
    assert not store.has(KEY)
    store.write(KEY, FILES, {"kind": "test"})
    assert store.has(KEY)
    assert {name: store.read(KEY, name) for name in FILES} == FILES


def test_a_cell_states_what_it_consists_of_and_what_determined_it(store: Store) -> None:
    store.write(KEY, FILES, {"kind": "test"})
    done = json.loads((_folder(store) / "done.json").read_bytes())
    assert json.loads((_folder(store) / "fields.json").read_bytes()) == {"kind": "test"}
    assert done["files"]["rows.parquet"]["size"] == len(FILES["rows.parquet"])


def test_a_cell_that_another_run_replaces_while_it_is_read_is_not_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(KEY, FILES, {}, again=True)
    digest_file, replaced = store_module.digest_file, []

    def replace_first(path: Path) -> str:
        if not replaced:
            replaced.append(path)
            Store(store.root).write(KEY, {**FILES, "rows.parquet": b"other rows"}, {})
        return digest_file(path)

    monkeypatch.setattr(store_module, "digest_file", replace_first)
    assert store.has(KEY)
    assert replaced
    assert store.read(KEY, "rows.parquet") == b"other rows"
    assert not (store.root / "damaged").exists()


def test_a_whole_cell_is_never_set_aside(store: Store) -> None:
    """Another run may have put it there after the damaged one was seen."""
    store.write(KEY, FILES, {})
    store._set_aside(_folder(store))
    assert store.has(KEY)
    assert list((store.root / "damaged").iterdir()) == []


def test_what_is_no_cell_in_its_place_is_set_aside(store: Store) -> None:
    _folder(store).parent.mkdir(parents=True)
    _folder(store).write_text("a file")
    store.write(KEY, FILES, {})
    assert store.has(KEY)


@pytest.mark.parametrize("damage", ["alter", "truncate", "remove", "no done", "garbled done"])
def test_a_damaged_cell_is_set_aside_and_can_be_written_again(store: Store, damage: str) -> None:
    store.write(KEY, FILES, {})
    file, done = _folder(store) / "rows.parquet", _folder(store) / "done.json"
    match damage:
        case "alter":
            file.write_bytes(b"some r0ws")
        case "truncate":
            os.truncate(file, 3)
        case "remove":
            file.unlink()
        case "no done":
            done.unlink()
        case "garbled done":
            done.write_text('{"files": 3}')
    assert not store.has(KEY)
    assert not _folder(store).exists()
    assert len(list((store.root / "damaged").iterdir())) == 1
    store.write(KEY, FILES, {})
    assert store.has(KEY)


def test_reading_verifies(store: Store) -> None:
    store.write(KEY, FILES, {})
    (_folder(store) / "rows.parquet").write_bytes(b"some r0ws")
    with pytest.raises(AuditError, match="altered"):
        store.read(KEY, "rows.parquet")
    with pytest.raises(AuditError, match="no complete cell"):
        store.read(KEY, "nothing.txt")


def test_the_first_of_two_writers_wins(store: Store) -> None:
    store.write(KEY, FILES, {})
    store.write(KEY, {"rows.parquet": b"other"}, {})
    assert store.read(KEY, "rows.parquet") == FILES["rows.parquet"]


def test_a_failed_cell_can_be_read_but_is_computed_again(store: Store) -> None:
    store.write(KEY, FILES, {}, again=True)
    assert not store.has(KEY)
    assert store.read(KEY, "rows.parquet") == FILES["rows.parquet"]
    store.write(KEY, {"rows.parquet": b"mended"}, {})
    assert store.has(KEY)
    assert store.read(KEY, "rows.parquet") == b"mended"


def test_a_reader_of_a_failed_cell_sees_what_another_run_replaces_it_by(store: Store) -> None:
    store.write(KEY, FILES, {}, again=True)
    name = next(iter(FILES))
    assert store.read(KEY, name) == FILES[name]
    Store(store.root).write(KEY, {**FILES, name: b"whole now"}, {})
    assert store.read(KEY, name) == b"whole now"


def test_a_cell_that_failed_again_in_the_same_way_is_left_as_it_is(store: Store) -> None:
    store.write(KEY, FILES, {}, again=True)
    before = _folder(store).stat().st_ino
    store.write(KEY, FILES, {}, again=True)
    assert _folder(store).stat().st_ino == before
    store.write(KEY, {"rows.parquet": b"failed otherwise"}, {}, again=True)
    assert store.read(KEY, "rows.parquet") == b"failed otherwise"
    assert [path.name for path in _folder(store).parent.iterdir()] == [KEY]


def test_a_cell_that_cannot_be_read_is_not_taken_for_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    store.write(KEY, FILES, {})
    monkeypatch.setattr("cnnaudit.store.digest_file", unreadable)
    with pytest.raises(AuditError, match=r"store_dir: cannot read .* \(Too many open files\)"):
        store.has(KEY)
    monkeypatch.undo()
    assert store.has(KEY)


def test_a_file_that_cannot_be_read_is_not_taken_for_missing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    store.write(KEY, FILES, {})
    monkeypatch.setattr(Path, "read_bytes", unreadable)
    with pytest.raises(AuditError, match=r"store_dir: cannot read .* \(Input/output error\)"):
        store.read(KEY, next(iter(FILES)))


def _write_many(root: Path, failing: bool) -> None:
    store = Store(root)
    for number in range(40):
        key = cell_key({"number": number})
        files = {"a": b"x" * 5000, "b": str(os.getpid() if failing else number).encode()}
        store.write(key, files, {"number": number}, again=failing)
        assert store.has(key) is not failing


@pytest.mark.parametrize("failing", [False, True])
def test_two_processes_on_one_store_do_not_corrupt_it(store: Store, failing: bool) -> None:
    """Cells that failed are replaced all the time: those of two processes differ here."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(store.root, failing)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    keys = [cell_key({"number": number}) for number in range(40)]
    assert {store.has(key) for key in keys} == {not failing}
    assert all(store.read(key, "a") and store.read(key, "b") for key in keys)
    assert not list(store.root.rglob(".draft-*"))


def test_only_what_a_killed_process_left_is_swept(store: Store) -> None:
    store.write(KEY, FILES, {})
    old, new = (_folder(store).with_name(f".draft-{name}") for name in ("old", "new"))
    for draft in (old, new):
        draft.mkdir()
        (draft / "rows.parquet").write_bytes(b"half")
    an_hour_and_more = time.time() - 4000
    os.utime(old, (an_hour_and_more, an_hour_and_more))
    os.utime(_folder(store), (an_hour_and_more, an_hour_and_more))
    store.sweep()
    assert not old.exists()
    assert new.exists()
    assert store.has(KEY)


def test_a_key_depends_on_values_not_on_their_order() -> None:
    assert cell_key({"a": 1, "b": 2}) == cell_key({"b": 2, "a": 1})
    assert cell_key({"a": 1}) != cell_key({"a": 2})
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": float("nan")})


@pytest.mark.parametrize("values", [[], [1], [{"b": [None, "ü"], "a": 0.5}, "x", []]])
def test_a_list_has_the_digest_of_its_text(values: list[object]) -> None:
    assert digest_list(iter(values)) == digest_bytes(canonical_json(values).encode())


def test_what_cannot_be_written_is_said_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AuditError, match=r"output_dir: cannot write to .*file"):
        check_writable(tmp_path / "file" / "out", "output_dir")
    with pytest.raises(AuditError, match="store_dir: cannot write"):
        Store(tmp_path / "file").write(KEY, FILES, {})


def test_a_link_in_the_place_of_a_draft_is_not_followed(tmp_path: Path) -> None:
    """It may lie in a run directory that somebody sent, for every process number there is."""
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / f".page.html.draft-{os.getpid()}").symlink_to("precious")
    write_atomically(tmp_path / "page.html", b"<!doctype html>")
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert not (tmp_path / "page.html").is_symlink()


def test_writing_atomically_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
