"""What must not lose or falsify a number: kills, damage, full disks, two runs at once, bad items.

Real processes and real signals. Each is forked off a process that has imported everything, so that
the moments of the kills fall into the work and not into the imports.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import cnnaudit.cli
from cnnaudit.store import DONE, FIELDS, Store
from cnnaudit.types import ROWS_FILE

KILLS = 20
IMPORTED = (
    *("cnnaudit.audit", "cnnaudit.execute", "cnnaudit.executors", "cnnaudit.report.page"),
    *("cnnaudit.agreement", "cnnaudit.randomising", "cnnaudit.illustrate", "hydra"),
    *("cnnaudit.contrasts", "cnnaudit.checks", "scipy.stats"),
)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*IMPORTED])

PLUGIN = """
import torch
from cnnaudit.techniques import technique
from cnnaudit.types import Needs

@technique(needs=Needs(input_gradient=True), title="One NaN", citation="none")
def one_nan(signals):
    maps = signals.input_gradients["plain"].abs().amax(dim=1)
    maps[0, 0, 0] = torch.nan
    return maps

@technique(needs=Needs(input_gradient=True), title="Raises", citation="none")
def raises(signals):
    raise ZeroDivisionError("of all things")
"""


DEADLY = """
import os, signal
from pathlib import Path
from torch.utils.data import get_worker_info
from cnnaudit.image_sets import batches

read = batches.read_picture

def deadly(item):
    if item.id == "scene_00-left-equal@brightness-3":
        end = True
    elif item.id == "scene_00-left-equal@haze-3":
        end = not Path("died").exists()
        Path("died").touch()
    else:
        end = False
    if end and get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(item)

batches.read_picture = deadly
"""


class Audit:
    """An audit's command, whose runs are processes with one store."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        folder.mkdir()
        self.folder, self.out = folder, folder / "out"
        self.store = Store(self.out / "store")
        self.overrides = [*overrides, f"output_dir={self.out}"]

    def start(self, *more: str, largest_file: int = resource.RLIM_INFINITY) -> BaseProcess:
        arguments = (self.folder, [*self.overrides, *more], largest_file)
        process = CONTEXT.Process(target=_run, args=arguments)
        process.start()
        return process

    def run(self, *more: str, largest_file: int = resource.RLIM_INFINITY) -> int:
        """Run it to its end and return its exit code."""
        process = self.start(*more, largest_file=largest_file)
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    @property
    def said(self) -> str:
        """What the last run printed."""
        return (self.folder / "said").read_text()

    @property
    def run_dir(self) -> Path:
        return max(self.out.glob("*/*/manifest.json"), key=_age).parent

    def tables(self) -> dict[str, bytes]:
        """Return everything that the last run found, byte by byte."""
        found = {path.name: path.read_bytes() for path in (self.run_dir / "results").iterdir()}
        assert {"rows.parquet", "summary.csv"} < found.keys()
        return found

    def rows(self) -> pd.DataFrame:
        return pd.read_parquet(self.run_dir / "results/rows.parquet")

    def files(self) -> list[Path]:
        """Return the files of all cells, not those of drafts."""
        return sorted(path for path in self.store.root.glob("??/[0-9a-f]*/*") if path.is_file())

    def cells(self) -> set[str]:
        return {path.parent.name for path in self.files()}


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns


def _run(folder: Path, overrides: Sequence[str], largest_file: int) -> None:
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)  # as in a process that nobody forked
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    sys.argv = ["run.py", *sorted(overrides, key=lambda text: text[:2] != "--")]
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            cnnaudit.cli.main(["run"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (folder / "said").write_text(said.getvalue())


@pytest.fixture(scope="module", autouse=True)
def _everything_is_imported() -> None:
    process = CONTEXT.Process(target=os.getpid)
    process.start()
    process.join()


@pytest.fixture
def audit(tmp_path: Path, image_set: Path, weights: Path) -> Callable[..., Audit]:
    """Return an audit by the name of its folder; each has a store of its own."""

    def named(name: str, *more: str) -> Audit:
        return Audit(
            tmp_path / name,
            [
                "experiment=none",  # neither checks nor contrasts: they take their time
                "image_set=[robot_lighting]",
                f"image_set.robot_lighting.root={image_set}",
                f"model.perception.weights={weights}",
                "device=cpu",
                *more,
            ],
        )

    return named


def test_killed_at_random_moments_it_continues_to_the_same_tables(
    audit: Callable[..., Audit],
) -> None:
    """Each store is continued after its kills until a run gets through; then comes the next one."""
    work = (
        *("perturbation=[brightness]", "perturbation.brightness.severities=[3]"),
        *("technique=[saliency,grad_cam]", "agreement=[techniques]", "executor.workers=1"),
        "batch_size=8",
    )
    whole = audit("whole", *work)
    started = time.monotonic()
    assert whole.run() == 0, whole.said
    duration = time.monotonic() - started

    draw, killed = random.Random(0), 0
    for store in range(KILLS):
        broken = audit(f"broken-{store}", *work)
        kills, started = 0, time.monotonic()
        while True:
            process = broken.start()
            process.join(draw.uniform(0, duration))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
        if not kills:  # faster than the others: they would hardly ever be met
            duration = min(duration, time.monotonic() - started)
        assert process.exitcode == 0, broken.said
        assert broken.tables() == whole.tables()
        assert not (broken.store.root / "damaged").exists()
        killed += kills
        if killed >= KILLS:
            return
    pytest.fail(f"only {killed} runs could be killed")


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_every_kind_of_file_in_the_store_that_is_damaged_is_computed_again(
    audit: Callable[..., Audit], damage: str
) -> None:
    kept = audit(
        "kept",
        "technique=[saliency,grad_cam,activations,kernels]",
        *("agreement=[techniques]", "sanity=[randomisation]", "sanity.randomisation.items=2"),
    )
    assert kept.run() == 0, kept.said
    before, cells = kept.tables(), kept.cells()
    kinds = {path.name: path for path in kept.files()}
    assert {
        *(
            DONE,
            FIELDS,
            "rows.arrow",
            "facts.json",
            "maps.npy",
            "maps.json",
            "agreement.parquet",
            "randomisation.json",
        ),
        *("view.webp", "input.png", "region-0.png", "received-region-0.png", "picture.json"),
        *("heatmap.png", "heatmap.json"),
        *("channels.png", "kernels.png", "kernels.json"),
    } == kinds.keys()
    for path in kinds.values():
        _damage(path, damage)

    assert kept.run() == 0, kept.said
    assert kept.tables() == before
    assert kept.cells() == cells
    assert all(map(kept.store.has, cells))
    aside = {path.name[:64] for path in (kept.store.root / "damaged").iterdir()}
    assert aside == {path.parent.name for path in kinds.values()}


def _damage(path: Path, damage: str) -> None:
    match damage:
        case "truncated":
            os.truncate(path, path.stat().st_size // 2)
        case "altered":
            content = bytearray(path.read_bytes())
            content[len(content) // 2 if path.name != DONE else 0] ^= 1
            path.write_bytes(content)
        case "removed":
            path.unlink()


def test_a_full_disk_stops_it_with_one_message_and_what_is_done_counts(
    audit: Callable[..., Audit],
) -> None:
    """A limit on the size of a file: most cells fit, the pictures for the report do not."""
    whole, full = audit("whole"), audit("full")
    assert whole.run() == 0
    largest = max(path.stat().st_size for path in whole.files())

    assert full.run(largest_file=largest - 1) == 1
    error = full.said.splitlines()[-1]
    assert error.startswith(f"error: store_dir: cannot write to the store {full.store.root} (")
    assert "Traceback" not in full.said
    assert 0 < len(full.cells()) < len(whole.cells())
    assert all(map(full.store.has, full.cells()))
    assert not list(full.store.root.glob("*/.draft-*"))

    assert full.run() == 0
    assert full.tables() == whole.tables()


def test_a_store_that_cannot_be_written_is_said_at_once(audit: Callable[..., Audit]) -> None:
    barred = audit("barred")
    barred.out.mkdir()
    barred.store.root.write_text("a file in the way")
    assert barred.run() == 1
    assert barred.said.startswith(f"error: store_dir: cannot write to {barred.store.root} (")
    assert barred.said.count("\n") == 1


def test_two_runs_at_once_on_one_store(audit: Callable[..., Audit]) -> None:
    alone, shared = audit("alone"), audit("shared")
    assert alone.run() == 0
    both = [shared.start(), shared.start()]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    manifests = list(shared.out.glob("*/*/manifest.json"))
    assert len(manifests) == 2
    for manifest in manifests:
        for name, content in alone.tables().items():
            assert (manifest.parent / "results" / name).read_bytes() == content
    assert all(map(shared.store.has, shared.cells()))
    assert not (shared.store.root / "damaged").exists()
    assert not list(shared.store.root.glob("*/.draft-*"))


def test_what_is_poisoned_fails_alone_and_the_rest_is_as_it_was(
    audit: Callable[..., Audit], image_set: Path
) -> None:
    """One picture is cut short, one heatmap has a NaN, one technique raises: all in one run."""
    clean, poisoned = audit("clean", "technique=[saliency]"), audit("poisoned", "allow_code=true")
    assert clean.run() == 0
    (poisoned.folder / "poison.py").write_text(PLUGIN)
    techniques = poisoned.folder / "conf/technique"
    techniques.mkdir(parents=True)
    (techniques / "poison.yaml").write_text("one_nan: {uses: one_nan}\nraises: {uses: raises}\n")
    cut = image_set / "images/scene_00-left-equal.png"
    cut.write_bytes(cut.read_bytes()[:-500])

    chosen = ("--config-dir=conf", "technique=[saliency,poison]", "plugins=[poison]")
    assert poisoned.run(*chosen) == 4, poisoned.said
    assert "INCOMPLETE: some of it failed" in poisoned.said
    summary = json.loads((poisoned.run_dir / "summary.json").read_text())
    assert summary["status"] == "INCOMPLETE"
    page = (poisoned.run_dir / "report.html").read_text()
    said = page.index("INCOMPLETE", page.index("<body"))
    assert said < page.index("<table")

    rows, expected = (
        run.rows().astype({"technique": str, "status": str, "reason": str})
        for run in (poisoned, clean)
    )
    is_cut = rows["item"] == cut.stem
    assert set(rows[is_cut].status) == {"failed"}
    assert rows[is_cut].reason.str.contains(cut.name, regex=False).all()
    failed = rows[~is_cut & (rows.status == "failed")]
    assert set(failed.technique) == {"one_nan", "raises"}
    assert set(failed[failed.technique == "raises"].reason) == {"ZeroDivisionError: of all things"}
    nan = failed[failed.technique == "one_nan"]
    assert set(nan.reason) == {"the heatmap is not finite"}
    assert nan["item"].nunique() == 1

    sound = rows[~is_cut & rows.technique.isin(["", "saliency"])].reset_index(drop=True)
    expected = expected[expected["item"] != cut.stem].reset_index(drop=True)
    assert sound[["item", "metric", "status"]].equals(expected[["item", "metric", "status"]])
    np.testing.assert_allclose(sound.value, expected.value, rtol=1e-4, atol=1e-6)


def test_a_picture_that_kills_who_reads_it_costs_its_chunk_and_no_more(
    audit: Callable[..., Audit],
) -> None:
    """One does so whenever it is read, as what makes a decoder crash; one once, as the system may
    when memory is short."""
    more = (
        *("technique=[saliency]", "perturbation=[contrast,brightness,haze]", "batch_size=8"),
        *(f"perturbation.{name}.severities=[3]" for name in ("contrast", "brightness", "haze")),
        "executor.workers=1",
    )
    clean, deadly = audit("clean", *more), audit("deadly", *more, "allow_code=true")
    assert clean.run() == 0
    (deadly.folder / "deadly.py").write_text(DEADLY)
    assert deadly.run("plugins=[deadly]") == 4, deadly.said
    log = (deadly.run_dir / "run.log").read_text()
    assert log.count("a process that reads pictures ended") in (4, 5)  # or while it read ahead

    rows, expected = deadly.rows(), clean.rows()
    lost = rows["item"].astype(str).str.endswith("@brightness-3")
    assert set(rows[lost].status) == {"failed"}
    assert set(rows[lost].reason) == {"the process that computed it died; attempts: 3"}
    pd.testing.assert_frame_equal(
        rows[~lost].reset_index(drop=True).astype({"status": str, "reason": str}),
        expected[~lost].reset_index(drop=True).astype({"status": str, "reason": str}),
    )
    assert deadly.run() == 0  # without what kills
    assert deadly.tables() == clean.tables()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_only_whole_cells_and_exits_with_130(
    audit: Callable[..., Audit], sent: signal.Signals
) -> None:
    stopped = audit(
        *("stopped", "perturbation=[brightness]", "technique=[saliency,smooth_grad]"),
        *("batch_size=1", "executor.workers=1"),
    )
    process = stopped.start()
    while not any(path.name == ROWS_FILE for path in stopped.files()):
        assert process.exitcode is None
    assert process.pid is not None
    os.kill(process.pid, sent)
    process.join()
    assert process.exitcode == 130, stopped.said
    (status,) = stopped.out.glob("*/*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"
    assert stopped.said.splitlines()[-1].startswith("interrupted; what was finished is in the stor")
    assert "Traceback" not in stopped.said
    assert all(map(stopped.store.has, stopped.cells()))
    assert not list(stopped.store.root.glob("*/.draft-*"))
