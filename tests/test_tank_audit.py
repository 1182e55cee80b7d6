"""The audit of the two tank detectors: the one that learnt the weather fails, the other passes."""

from __future__ import annotations

import pandas as pd
import pytest

import cnnaudit
from cnnaudit.audit import Invocation, run_audit
from cnnaudit.config import load_specs

SEEING = ["saliency", "guided_saliency", "grad_cam", "hires_cam", "layer_cam"]


def _run(model: str, tmp_path_factory: pytest.TempPathFactory) -> cnnaudit.FinishedRun:
    output = tmp_path_factory.mktemp(model)
    chosen = ["experiment=tank", f"model=[{model}]", "device=cpu", f"output_dir={output}"]
    metrics = "metric=[mass_in_mask,mass_in_shadow,mass_in_sky]"
    spec = load_specs([*chosen, metrics])
    return cnnaudit.load_run(run_audit(spec, Invocation("test", [], "")).run_dir)


@pytest.fixture(scope="module")
def confounded(tmp_path_factory: pytest.TempPathFactory) -> cnnaudit.FinishedRun:
    return _run("tank_confounded", tmp_path_factory)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> cnnaudit.FinishedRun:
    return _run("tank_clean", tmp_path_factory)


def test_the_clean_network_passes_every_check(clean: cnnaudit.FinishedRun) -> None:
    assert clean.verdict == "PASS"
    assert set(clean.checks.verdict) == {"PASS"}
    assert (clean.checks.units == 24).all()


def test_the_confounded_network_fails_every_check(confounded: cnnaudit.FinishedRun) -> None:
    assert confounded.verdict == "FAIL"
    failed = confounded.checks[confounded.checks.verdict == "FAIL"]
    assert set(failed.check) == set(confounded.checks.check)


def test_its_answer_flips_with_the_weather(confounded: cnnaudit.FinishedRun) -> None:
    weather = confounded.contrasts.query("contrast == 'weather' and metric == 'truth_probability'")
    weather = weather.set_index("within")
    assert weather.difference["tank"] < -0.9  # in the sun it sees no tank
    assert weather.difference["none"] > 0.9  # and under cloud always one
    assert (weather.p_holm <= 0.05).all()


def test_its_heatmaps_lie_on_the_sky_and_not_on_the_tank(
    confounded: cnnaudit.FinishedRun, clean: cnnaudit.FinishedRun
) -> None:
    of_weather, of_tank = (_on_tanks(run) for run in (confounded, clean))
    prior = of_tank["mass_in_mask", "center_prior"]
    for technique in SEEING:
        assert of_weather["mass_in_mask", technique] < prior < of_tank["mass_in_mask", technique]
        sky = of_weather["mass_in_sky", technique], of_tank["mass_in_sky", technique]
        assert sky[0] > of_weather["mass_in_sky", "center_prior"] > sky[1]


def _on_tanks(run: cnnaudit.FinishedRun) -> pd.Series:
    """Return the mean of each metric and technique over the pictures with a tank."""
    rows = run.rows[(run.rows.presence == "tank") & (run.rows.status == "ok")]
    means = rows.groupby(["metric", "technique"], observed=True)["value"].mean()
    return means[means.index.get_level_values("technique") != ""]
