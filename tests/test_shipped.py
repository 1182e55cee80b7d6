"""Paths of a config: among the files that come with cnnaudit, in a package, or the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest

from cnnaudit import shipped
from cnnaudit.types import AuditError


def test_a_path_is_relative_to_where_we_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert shipped.resolve("photos/cat.png") == tmp_path / "photos/cat.png"
    assert shipped.resolve("~/photos") == tmp_path / "home/photos"
    assert shipped.resolve(str(tmp_path)) == tmp_path


def test_what_comes_with_the_package_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (shipped.resolve("shipped:conf") / "audit.yaml").is_file()
    with pytest.raises(AuditError, match=r"conf/nothing.yaml is not among the files"):
        shipped.resolve("shipped:conf/nothing.yaml")


def test_a_file_of_an_installed_package() -> None:
    own = Path(numpy.__file__).parent
    assert shipped.resolve("package:numpy/version.py") == own / "version.py"
    assert shipped.resolve("package:numpy") == own


def test_a_package_is_located_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "would_run").mkdir()
    (tmp_path / "would_run/__init__.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    assert shipped.resolve("package:would_run/a.png") == tmp_path / "would_run/a.png"
    assert "would_run" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_package", "scikit-image", "os.path", "", "csv"])
def test_a_package_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(
        AuditError, match=rf"package:{name}/a.png: the package '{name}' is not inst"
    ):
        shipped.resolve(f"package:{name}/a.png")


def test_what_an_extra_brings_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(AuditError, match=r"'skimage' .* extra: pip install 'cnnaudit\[journey\]'"):
        shipped.resolve("package:skimage/data/chelsea.png")
