"""summary.json of real runs against its JSON schema, which comes with the package."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cnnaudit.types import RUN_SCHEMA
from tests.sample_run import build_run

SCHEMA: dict[str, Any] = json.loads(files("cnnaudit").joinpath("summary.schema.json").read_bytes())
CHECKER = jsonschema.Draft202012Validator(SCHEMA)
TWO_MODELS = (
    "+model.untrained={builder: perception, weights: none, "
    "preprocessing: ${model.perception.preprocessing}, score_from: decoder.3, "
    "task: structured_regression, target: all_outputs}",
    "sanity=[randomisation]",
    "agreement=[models,techniques]",
    "technique=[saliency,input_x_gradient]",
    "check=[]",  # those of the robot name other techniques
)


def summary_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_bytes())
    return found


def keys_of(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield each named property of a schema with what describes it."""
    for key, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key == "properties" and "type" in schema:
            yield from value.items()
        if isinstance(value, dict | list):
            yield from keys_of(value)


def test_it_is_a_schema_of_the_version_that_runs_have() -> None:
    CHECKER.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema"]["const"] == RUN_SCHEMA
    assert SCHEMA["$id"] == f"urn:cnnaudit:summary:{RUN_SCHEMA}"


def test_every_field_is_described() -> None:
    def described(one: dict[str, Any]) -> bool:
        name = one.get("$ref", "").rpartition("/")[2]
        return "description" in one or (bool(name) and described(SCHEMA["$defs"][name]))

    found = list(keys_of(SCHEMA))
    assert len(found) > 30
    assert [name for name, one in found if not described(one)] == []


@pytest.mark.parametrize(
    ("kind", "more", "code"),
    [
        ("complete", (), 0),
        ("failed", (), 4),
        ("no checks", ("contrast=[]", "check=[]"), 0),
        ("two models", TWO_MODELS, 0),
    ],
)
def test_a_run_keeps_the_schema(
    cli: Callable, overrides: list[str], image_set: Path, tmp_path: Path,
    kind: str, more: tuple[str, ...], code: int,
) -> None:  # fmt: skip
    if kind == "failed":
        picture = image_set / "images/scene_00-left-equal.png"
        picture.write_bytes(picture.read_bytes()[:-500])
    assert cli("run", *overrides, *more)[0] == code
    found = summary_of(max((tmp_path / "out/robot").iterdir()))
    CHECKER.validate(found)
    assert (found["status"] == "COMPLETE") == (code == 0)
    assert bool(found["failures"]) == (kind == "failed")
    assert (found["verdict"] == "") == ("check=[]" in more)
    if kind == "two models":
        assert {one for told in found["findings"] for one in told} >= {"between", "sanity", "grid"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary from which the report's tests start."""
    found = summary_of(build_run(tmp_path_factory.mktemp("sample")))
    CHECKER.validate(found)
    return found


def _change(summary: dict[str, Any], *path: str | int, to: Any) -> None:
    *above, last = path
    for key in above:
        summary = summary[key]
    summary[last] = to  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("schema",), RUN_SCHEMA + 1),
        (("tomorrow",), True),
        (("status",), "complete"),
        (("verdict",), "MAYBE"),
        (("checks", "one"), "INCOMPLETE"),
        (("contradictions",), "none"),
        (("left_out",), None),
        (("counts", "okay"), 1),
        (("counts", "ok"), "80"),
        (("findings", 0, "evidence"), "x"),
        (("findings", 0, "text"), ""),
        (("findings", 0, "grid"), 0),
        (("failures", 0, "status"), "undefined"),
        (("gaps", 0, "status"), "failed"),
        (("gaps", 0, "items"), 1.5),
        (("gaps", 0, "examples"), ["a", "b", "c", "d"]),
        (("gaps", 0, "why"), "because"),
        (("gaps", 0, "missing"), {}),
        (("gaps", 0, "missing", "grad_cam"), []),
    ],
)
def test_a_changed_field_is_refused(sample: dict[str, Any], path: Any, to: Any) -> None:
    changed = copy.deepcopy(sample)
    _change(changed, *path, to=to)
    assert not CHECKER.is_valid(changed)


@pytest.mark.parametrize("name", SCHEMA["required"])
def test_a_field_that_is_gone_is_refused(sample: dict[str, Any], name: str) -> None:
    assert not CHECKER.is_valid({key: sample[key] for key in sample if key != name})
