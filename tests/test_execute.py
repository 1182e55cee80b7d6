"""Executing a unit: complete rows whatever happens, and a failure stays where it happened."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnnaudit.audit import Prepared, prepare
from cnnaudit.config import load_specs
from cnnaudit.execute import Finished, execute, make_reader, patient
from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.models import build_model
from cnnaudit.models.perception import SimpleCNN
from cnnaudit.models.untrained import untrained_twin
from cnnaudit.rows import collect_rows
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import Heatmaps, ProcessDied, Signals
from tests.conftest import SIZE

Run = Callable[..., pd.DataFrame]
PERTURBED = ("perturbation=[brightness]", "perturbation.brightness.severities=[3]")  # more units


@pytest.fixture
def run(overrides: list[str]) -> Run:
    """Execute an audit's units, with a model if one is given, and return all rows."""

    def run(
        *more: str, model: nn.Module | None = None, twin: nn.Module | None = None
    ) -> pd.DataFrame:
        ready = prepare(load_specs([*overrides, *more]))
        audit = ready.audit
        for unit in ready.plan.units:
            (_,) = execute(
                [unit],
                model or build_model(unit.model, audit.seed),
                audit.metrics,
                ready.store,
                reader=make_reader(unit.model, audit.metrics, audit.batch_size, workers=0),
                batch_size=audit.batch_size,
                twin=twin,
            )
        return collect_rows(ready.plan.cells, ready.store)

    return run


@pytest.fixture
def technique(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Tensor]], None]:
    """Put another function in the place of saliency."""

    def put(compute: Callable[..., Tensor]) -> None:
        old = TECHNIQUES["saliency"]
        new = replace(old, compute=compute, version=1_000)
        monkeypatch.setitem(TECHNIQUES, "saliency", new)

    return put


def _magnitude(signals: Signals) -> Tensor:
    return signals.input_gradients["plain"].abs().amax(dim=1)


def test_a_mask_that_vanishes_on_the_way_to_the_input_is_told_from_an_empty_one(
    run: Run, image_set: Path
) -> None:
    """The input is half as large, and nearest neighbour skips every other row and column."""
    empty = Image.new("L", SIZE)
    empty.save(image_set / "masks/scene_00.png")
    empty.putpixel((0, 0), 255)
    empty.save(image_set / "masks/scene_01.png")
    rows = run("technique=[saliency]")
    heatmaps = rows[(rows.region == "mask") & (rows.presence == "obstacle")]
    found = heatmaps.groupby(heatmaps["item"].str[:8])[["status", "reason"]].agg(set)
    assert found.loc["scene_00"].tolist() == [{"undefined"}, {"empty_mask"}]
    assert found.loc["scene_01"].tolist() == [{"undefined"}, {"vanished_mask"}]
    assert found.loc["scene_02"].tolist() == [{"ok"}, {""}]


def test_a_row_for_every_item_technique_and_metric(run: Run) -> None:
    rows = run()
    assert len(rows) == 24 * (8 * 4 + 5)
    assert not rows.duplicated(["technique", "item", "metric"]).any()
    assert set(rows[rows.region == "shadow"].status) == {"ineligible"}  # this set declares none
    heatmaps = rows[rows.region == "mask"]
    on_obstacle = heatmaps[heatmaps.presence == "obstacle"]
    assert set(on_obstacle.status) == {"ok"}
    assert set(heatmaps[heatmaps.presence != "obstacle"].status) == {"ineligible"}
    lift = (on_obstacle.value - on_obstacle.chance) / (1 - on_obstacle.chance)
    pd.testing.assert_series_equal(lift, on_obstacle.lift, check_names=False)


def test_swap_is_the_heatmap_on_the_mask_of_the_partner(run: Run) -> None:
    """A heatmap that is the same for all images scores, swapped, what its partner scores."""
    rows = run("technique=[center_prior]", "metric=[mass_in_mask]")
    rows = rows[(rows.technique == "center_prior") & (rows.presence == "obstacle")]
    own = rows.pivot_table(index=["colour", "light"], columns="unit", values="value")
    swapped = rows.pivot_table(index=["colour", "light"], columns="unit", values="swap")
    for levels in own.index:
        assert sorted(own.loc[levels]) == pytest.approx(sorted(swapped.loc[levels]))
        assert list(own.loc[levels]) != pytest.approx(list(swapped.loc[levels]))


def test_the_twin_is_the_same_technique_on_new_weights(
    run: Run, overrides: list[str], tmp_path: Path
) -> None:
    """What an untrained network earns, measured in an audit of its own, stands in the column."""
    asked = ["technique=[saliency,grad_cam,edges]", "metric=[mass_in_mask]"]
    spec = prepare(load_specs([*overrides, *asked])).audit.models[0]
    twin = untrained_twin(build_model(spec, 0), seed=1)
    beside = run(*asked, twin=twin).set_index(["technique", "item"])
    alone = run(*asked, f"store_dir={tmp_path / 'other'}", model=twin)
    alone = alone.set_index(["technique", "item"])
    for name in ("saliency", "grad_cam"):
        found = beside.loc[name]
        assert found.twin.notna().sum() == (found.status == "ok").sum() == 12
        pd.testing.assert_series_equal(found.twin, alone.loc[name].value, check_names=False)
        assert not (found.twin == found.value).any()
    assert beside.loc["edges"].twin.isna().all()


def test_the_ceiling_is_the_mask_at_the_resolution_of_the_layer(run: Run, image_set: Path) -> None:
    rows = run(
        "technique=[saliency,grad_cam,hires_cam]",
        "technique.hires_cam.layer=first_conv",
        "metric=[mass_in_mask]",
    )
    rows = rows[(rows.region == "mask") & (rows.status == "ok")]
    ceiling = rows.groupby("technique").ceiling.mean()
    assert ceiling["grad_cam"] < ceiling["hires_cam"] <= 1
    assert np.isnan(ceiling["saliency"])  # it has the input's resolution
    one = rows[(rows.technique == "grad_cam") & rows["item"].str.startswith("scene_01")].iloc[0]
    with Image.open(image_set / "masks/scene_01.png") as file:
        mask = np.asarray(file.resize((80, 64), Image.Resampling.NEAREST)) > 0
    coarse = cv2.resize(mask.astype(np.float32), (20, 16), interpolation=cv2.INTER_AREA)
    best = cv2.resize(coarse, (80, 64), interpolation=cv2.INTER_LINEAR)
    assert one.ceiling == pytest.approx(best[mask].sum() / best.sum(), abs=1e-5)


def test_the_batch_size_does_not_change_numbers(run: Run, tmp_path: Path) -> None:
    whole = run()
    single = run("batch_size=1", f"store_dir={tmp_path / 'other'}")
    pd.testing.assert_frame_equal(whole, single, rtol=1e-4, atol=1e-6)


def test_an_unreadable_picture_fails_alone(run: Run, image_set: Path) -> None:
    broken = image_set / "images/scene_00-left-equal.png"
    clean = run()
    broken.write_bytes(broken.read_bytes()[:-500])
    rows = run()
    bad = rows.item == "scene_00-left-equal"
    assert set(rows[bad].status) == {"failed"}
    assert rows[bad].reason.str.contains("scene_00-left-equal.png").all()
    others = ["item", "technique", "metric"]
    merged = rows[~bad].merge(clean, on=others, validate="one_to_one")
    assert merged.status_x.astype(str).equals(merged.status_y.astype(str))
    assert (merged.value_x - merged.value_y).abs().max() < 1e-6


def test_nan_in_one_heatmap_touches_no_other(
    run: Run, technique: Callable[[Callable[..., Tensor]], None]
) -> None:
    def poisoned(signals: Signals, *, reduce: str = "max") -> Tensor:
        maps = _magnitude(signals)
        maps[0, 0, 0] = torch.nan
        return maps

    technique(poisoned)
    rows = run("technique=[saliency]", "batch_size=24")
    heatmaps = rows[rows.technique == "saliency"]
    assert heatmaps[heatmaps.status == "failed"]["item"].nunique() == 1
    assert heatmaps[heatmaps.status == "failed"].reason.eq("the heatmap is not finite").all()


def test_an_exception_in_a_technique_fails_its_own_cell(
    run: Run, technique: Callable[[Callable[..., Tensor]], None]
) -> None:
    def broken(signals: Signals, *, reduce: str = "max") -> Tensor:
        raise ZeroDivisionError("of all things")

    technique(broken)
    rows = run()
    failed = rows[rows.status == "failed"]
    assert set(failed.technique) == {"saliency"}
    assert set(failed.reason) == {"ZeroDivisionError: of all things"}


def _too_many_for_a_gpu() -> None:
    raise torch.OutOfMemoryError("too many")


def _too_many_for_the_cpu() -> None:
    torch.empty(1 << 56)


@pytest.mark.parametrize("run_short", [_too_many_for_a_gpu, _too_many_for_the_cpu])
def test_out_of_memory_halves_the_batch(
    run: Run, tmp_path: Path, run_short: Callable[[], None]
) -> None:
    class Small(SimpleCNN):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 3:
                run_short()
            return super().forward(images)

    torch.manual_seed(5)
    rows = run("batch_size=24", model=Small().eval())
    assert "failed" not in set(rows.status)
    unlimited = run(f"store_dir={tmp_path / 'other'}", "batch_size=24")
    pd.testing.assert_frame_equal(rows, unlimited, rtol=1e-4, atol=1e-6)


def test_the_batch_that_the_memory_takes_is_found_once_for_all_units(
    overrides: list[str], run: Run, tmp_path: Path
) -> None:
    """24 images do not fit, nor 12, nor 6; then every batch has 3, also those of later units."""
    tried = []

    class Small(SimpleCNN):
        def forward(self, images: Tensor) -> Tensor:
            tried.append(len(images))
            if len(images) > 3:
                raise torch.OutOfMemoryError("too many")
            return super().forward(images)

    asked = [*PERTURBED, "batch_size=24", "technique=[saliency]"]
    ready = prepare(load_specs([*overrides, *asked]))
    torch.manual_seed(5)
    model = Small().eval()
    found = list(_execute(ready, model))
    assert [finished.batch_size for finished in found] == [3] * len(ready.plan.units)
    assert len(found) > 1
    assert [size for size in tried if size > 3] == [24, 12, 6]
    rows = collect_rows(ready.plan.cells, ready.store)
    unlimited = run(*asked, f"store_dir={tmp_path / 'other'}")
    pd.testing.assert_frame_equal(rows, unlimited, rtol=1e-4, atol=1e-6)


def test_processes_that_decode_ahead_change_nothing(
    overrides: list[str], run: Run, tmp_path: Path
) -> None:
    """A batch never has items of two units, however far ahead it was read."""
    asked = [*PERTURBED, "batch_size=7", "technique=[saliency]"]
    ready = prepare(load_specs([*overrides, *asked]))
    finished = list(_execute(ready, build_model(ready.audit.models[0], 0), workers=2))
    assert [one.unit for one in finished] == list(ready.plan.units)
    here = run(*asked, f"store_dir={tmp_path / 'other'}")
    pd.testing.assert_frame_equal(collect_rows(ready.plan.cells, ready.store), here)


@pytest.mark.parametrize(("interrupts", "computed"), [(1, 12), (2, 0)])
def test_an_interrupt_waits_for_the_batch_in_work_and_a_second_one_does_not(
    overrides: list[str], interrupts: int, computed: int
) -> None:
    """Two units of 24 images in batches of 12; it comes in the third batch, of the second unit."""
    batches = []

    class Interrupted(SimpleCNN):
        def forward(self, images: Tensor) -> Tensor:
            batches.append(0)
            if len(batches) == 3:
                for _ in range(interrupts):
                    os.kill(os.getpid(), signal.SIGINT)
            answer = super().forward(images)
            batches[-1] = len(images)
            return answer

    ready = prepare(load_specs([*overrides, *PERTURBED, "batch_size=12", "technique=[saliency]"]))
    with pytest.raises(KeyboardInterrupt):
        list(_execute(ready, Interrupted().eval()))
    assert batches == [12, 12, computed]
    stored = {cell.key for cell in ready.plan.cells if ready.store.has(cell.key)}
    assert stored == {cell.key for cell in ready.plan.units[0].cells}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_in_the_last_batch_of_a_unit_keeps_the_unit(overrides: list[str]) -> None:
    class Interrupted(SimpleCNN):
        def forward(self, images: Tensor) -> Tensor:
            os.kill(os.getpid(), signal.SIGINT)
            return super().forward(images)

    ready = prepare(load_specs([*overrides, "technique=[saliency]"]))
    with pytest.raises(KeyboardInterrupt):
        list(_execute(ready, Interrupted().eval()))
    assert all(ready.store.has(cell.key) for cell in ready.plan.cells)


def _execute(ready: Prepared, model: nn.Module, workers: int = 0) -> Iterator[Finished]:
    audit = ready.audit
    return execute(
        ready.plan.units,
        model,
        audit.metrics,
        ready.store,
        reader=make_reader(audit.models[0], audit.metrics, audit.batch_size, workers),
        batch_size=audit.batch_size,
    )


def test_a_model_that_fails_says_so_in_every_row(run: Run) -> None:
    class Broken(SimpleCNN):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("no such kernel")

    rows = run(model=Broken())
    assert set(rows.status) == {"failed"}
    assert set(rows.reason) == {"RuntimeError: no such kernel"}


def test_a_failed_cell_is_computed_again_when_it_can_be(
    run: Run, technique: Callable[[Callable[..., Tensor]], None]
) -> None:
    def broken(signals: Signals, *, reduce: str = "max") -> Tensor:
        raise RuntimeError("for now")

    def mended(signals: Signals, *, reduce: str = "max") -> Tensor:
        return _magnitude(signals)

    technique(broken)
    assert "failed" in set(run().status)
    technique(mended)
    assert "failed" not in set(run().status)


def test_heatmaps_come_in_input_coordinates(overrides: list[str]) -> None:
    ready: Prepared = prepare(load_specs(overrides))
    spec = ready.audit.models[0]
    model = build_model(spec, 0)
    requests = ready.requests[spec.name]
    images = torch.randn(2, 3, 64, 80)
    outputs, computed = compute_heatmaps(model, spec.score_from, images, requests)
    assert outputs.shape == (2, 325)
    assert len(computed) == len(requests)
    for result in computed:
        assert isinstance(result, Heatmaps)
        assert result.maps.shape == (2, 64, 80)


def test_a_picture_of_another_mode_is_read(run: Run, image_set: Path) -> None:
    path = image_set / "images/scene_00-left-none.png"
    Image.open(io.BytesIO(path.read_bytes())).convert("L").save(path)
    assert "failed" not in set(run().status)


def test_a_heatmap_that_nothing_measures_fails_in_a_row_of_its_own(
    run: Run, technique: Callable
) -> None:
    """It is only compared with others; without it an audit is not complete all the same."""

    def broken(signals: Signals, *, reduce: str) -> Tensor:
        raise ValueError("no such thing")

    technique(broken)
    rows = run("metric=[]", "check=[]", "agreement=[techniques]", "technique=[saliency,grad_cam]")
    failed = rows[rows.status == "failed"]
    assert set(failed.metric) == {"heatmap"}
    assert set(failed.technique) == {"saliency"}
    assert len(failed) == 24


def test_who_is_asked_to_end_ends_though_a_process_died_of_the_same() -> None:
    """A scheduler signals all processes of a group, those that read among them."""

    def died(*signals: int) -> None:
        with patient():
            for each in signals:
                signal.raise_signal(each)
            raise ProcessDied("a process that reads pictures ended")

    with pytest.raises(KeyboardInterrupt):
        died(signal.SIGINT)
    with pytest.raises(ProcessDied):
        died()
