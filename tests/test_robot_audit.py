"""The audit that comes with the package, on real renders: it finds what it was built to find."""

from __future__ import annotations

from pathlib import Path

import pytest

import cnnaudit
from cnnaudit.audit import Invocation, run_audit
from cnnaudit.config import load_specs

PANEL = ["image_set=[robot_lighting]", "technique=[robot]", "device=cpu"]
PANEL += ["metric=[mass_in_mask,mass_in_shadow]"]


def _run(tmp_path: Path, *more: str) -> cnnaudit.FinishedRun:
    overrides = ["model=[perception]", *PANEL, f"output_dir={tmp_path}", *more]
    return cnnaudit.load_run(run_audit(load_specs(overrides), Invocation("test", [], "")).run_dir)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> cnnaudit.FinishedRun:
    return _run(tmp_path_factory.mktemp("trained"))


def test_the_trained_network_fails_on_colour_by_behaviour_under_every_light(
    trained: cnnaudit.FinishedRun,
) -> None:
    assert trained.verdict == "FAIL"
    checks = trained.checks
    seen = checks[(checks.check == "sees_the_obstacle") & (checks.level != "different")]
    assert set(seen.within) == {"overhead", "backlight", "left", "soft_left"}
    assert set(seen.verdict) == {"FAIL"}
    assert (seen.units == 24).all()
    assert (
        seen[seen.statistic == "difference"].value.idxmin()
        == (seen[(seen.statistic == "difference") & (seen.within == "overhead")].index[0])
    )
    reference = checks[(checks.check == "sees_the_obstacle") & (checks.level == "different")]
    assert set(reference.verdict) == {"PASS"}  # it is not blind as such


def test_its_heatmaps_leave_the_obstacle_with_the_colour(trained: cnnaudit.FinishedRun) -> None:
    found = trained.contrasts.query(
        "contrast == 'colour' and metric == 'mass_in_mask' and net_of == ''"
    )
    found = found.set_index(["technique", "within"])
    for technique in ("grad_cam", "guided_saliency", "hires_cam", "layer_cam"):
        row = found.loc[technique, "overhead"]
        assert row.difference < -0.2
        assert row.p_holm <= 0.05
    # Edges lose some of their mass with the colour as well, which no network is to blame for.
    assert -0.1 < found.loc["edges", "overhead"].difference < 0


def test_an_untrained_network_does_not_pass(tmp_path: Path) -> None:
    """Colour changes nothing for it, because it sees nothing."""
    run = _run(tmp_path, "model.perception.weights=none")
    assert run.verdict == "FAIL"
    looks = run.checks[run.checks.check == "looks_at_the_obstacle"]
    differences = looks[looks.statistic == "difference"]
    assert set(differences.verdict) == {"NOT MEASURED"}
    assert differences.reason.str.contains("itself does not keep").all()
    assert "PASS" not in set(looks[looks.statistic == "lift"].verdict)
    alarms = run.checks[run.checks.check == "no_alarm_for_a_shadow"]
    assert set(alarms.verdict) == {"FAIL"}


def test_the_repaired_network_sees_the_obstacle_and_takes_shadows_for_one(
    trained: cnnaudit.FinishedRun, tmp_path: Path
) -> None:
    repaired = _run(tmp_path, "model=[perception_mixed]", "metric=[]", "technique=[]")
    seen = repaired.checks[repaired.checks.check == "sees_the_obstacle"]
    assert set(seen[seen.statistic == "level"].verdict) == {"PASS"}
    assert "FAIL" not in set(seen.verdict)
    difference = "contrast == 'colour' and metric == 'true_cell_probability'"
    before, after = (run.contrasts.query(difference).difference for run in (trained, repaired))
    assert (after.to_numpy() > before.to_numpy() + 0.4).all()
    alarms = repaired.checks[repaired.checks.check == "no_alarm_for_a_shadow"]
    assert "FAIL" in set(alarms.verdict)  # what the repair cost
