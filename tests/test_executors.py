"""Ray for real, on this machine: deaths, what they cost, and that they change no number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from cnnaudit.audit import prepare
from cnnaudit.cluster import _room, _Team, make
from cnnaudit.config import load_specs
from cnnaudit.executors import Errand
from cnnaudit.store import Store
from cnnaudit.types import AuditError
from tests.processes import RUN, Process, loads, python

ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Who joins a cluster has to know its token; ours is made here, for these clusters alone.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": uuid.uuid4().hex,
}
TECHNIQUES = '''
import os, signal, time
from pathlib import Path
from cnnaudit.techniques import technique
from cnnaudit.types import Needs

@technique(needs=Needs(input_gradient=True), title="Mortal", citation="none")
def mortal(signals):
    """Ends its process when it is called for the very first time."""
    try:
        Path("died").touch(exist_ok=False)
    except FileExistsError:
        return signals.input_gradients["plain"].abs().sum(dim=1)
    os.kill(os.getpid(), signal.SIGKILL)

@technique(needs=Needs(input_gradient=True), title="Orphaning", citation="none")
def orphaning(signals):
    """Ends the processes that read for its own when it is called for the very first time."""
    try:
        Path("died").touch(exist_ok=False)  # by one of the actors alone
        for children in Path("/proc/self/task").glob("*/children"):
            for number in children.read_text().split():
                os.kill(int(number), signal.SIGKILL)
    except FileExistsError:
        pass
    return signals.input_gradients["plain"].abs().sum(dim=1)

@technique(needs=Needs(input_gradient=True), title="Waiting", citation="none")
def waiting(signals):
    """Goes on once a machine of the cluster is lost."""
    Path(f"begun-{os.getpid()}").touch()
    while not Path("lost").exists():
        time.sleep(0.05)
    return signals.input_gradients["plain"].abs().sum(dim=1)

@technique(needs=Needs(input_gradient=True), title="Poison", citation="none")
def poison(signals):
    """Ends its process on dark pictures: the hazy ones."""
    if signals.images.mean() < -0.6:
        with Path("deaths").open("a") as file:
            file.write("one\\n")
        os._exit(3)
    return signals.input_gradients["plain"].abs().sum(dim=1)
'''


@pytest.fixture
def arguments(overrides: list[str], tmp_path: Path) -> list[str]:
    """An audit with code of its own, in four chunks of one model and four of another."""
    (tmp_path / "own_techniques.py").write_text(TECHNIQUES)
    options = tmp_path / "conf/technique"
    options.mkdir(parents=True)
    for name in ("mortal", "orphaning", "poison", "waiting"):
        (options / f"{name}.yaml").write_text(f"{name}: {{uses: {name}}}\n")
    return [
        *(f"--config-dir={tmp_path / 'conf'}", "allow_code=true", "plugins=[own_techniques]"),
        *(*overrides, "check=[]", "contrast=[]"),
        *("perturbation=[haze]", "perturbation.haze.severities=[1,3,5]"),
    ]


RAY = ("executor=ray", "executor.actors=2")


def _run(folder: Path, *arguments: str) -> Process:
    return python(str(RUN), *arguments, cwd=folder, environment=ENVIRONMENT)


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(RUN), *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )


def _wait(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    while not ready():
        assert process.poll() is None
        time.sleep(0.1)


def _log(folder: Path) -> str:
    return "".join(log.read_text() for log in folder.rglob("run.log"))


def _run_dir(folder: Path) -> Path:
    (run_dir,) = (folder / "robot").iterdir()
    return run_dir


@pytest.mark.parametrize("technique", ["mortal", "orphaning"])
def test_a_killed_actor_changes_no_number(
    arguments: list[str], technique: str, tmp_path: Path
) -> None:
    """Or one whose reading process is killed; nor a picture, nor a curve."""
    arguments += [f"technique=[{technique}]", "executor.workers=1", "batch_size=4"]
    arguments += ["sanity=[randomisation]", "sanity.randomisation.steps=2"]
    ran = _run(tmp_path, *arguments, *RAY)
    assert ran.returncode == 0, ran.stderr
    run_dir = _run_dir(tmp_path / "out")
    log = (run_dir / "run.log").read_text()
    assert log.count("WARNING the process that computed it died, attempt 1") == 1
    assert log.count(": 24 items") == 4
    assert log.count(": randomised, on 3 items of robot_lighting") == 1

    ran = _run(tmp_path, *arguments, f"output_dir={tmp_path / 'local'}")
    assert ran.returncode == 0, ran.stderr
    local = _run_dir(tmp_path / "local")
    for name in ("rows.parquet", "summary.csv", "randomisation.csv", "illustrations.json"):
        assert (run_dir / "results" / name).read_bytes() == (local / "results" / name).read_bytes()
    assert _contents(tmp_path / "out/store") == _contents(tmp_path / "local/store")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.glob("??/*/*")}


def test_an_errand_whose_actor_dies_is_tried_again_and_given_up(
    overrides: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    more = ("executor=ray", "executor.actors=2", "executor.cores=1", "executor.retries=1")
    ready = prepare(load_specs([*overrides, *more]))
    (spec,) = ready.audit.models

    def dying(name: str, times: int) -> Errand:
        def make(_model: object, store: Store) -> None:
            with (tmp_path / name).open("a") as file:
                file.write("one\n")
            if (tmp_path / name).read_text().count("one") <= times:
                os.kill(os.getpid(), signal.SIGKILL)
            store.write(name, {"made": b""}, {})

        return Errand(name, spec, make, lambda store, why: store.write(name, {why: b""}, {}))

    errands = [dying("never", 0), dying("once", 1), dying("always", 99)]
    assert make(ready.audit, errands, ready.store) == [("cpu", None)]
    assert ready.store.read("never", "made") == ready.store.read("once", "made") == b""
    reason = "the process that computed it died; attempts: 2"
    assert ready.store.read("always", reason) == b""
    assert (tmp_path / "always").read_text() == "one\n" * 2


def test_a_cluster_of_which_no_machine_is_left_ends_the_run(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of one that will never come would be waited for for ever."""
    pytest.importorskip("ray")
    ready = prepare(load_specs([*overrides, "executor=ray", "executor.actors=1"]))
    (spec,) = ready.audit.models

    def ending(_model: object, _store: Store) -> None:
        machine = os.getppid()  # Ray's own process, which starts and watches the others
        assert b"raylet" in Path(f"/proc/{machine}/cmdline").read_bytes()
        os.kill(machine, signal.SIGKILL)
        signal.pause()

    monkeypatch.setattr("cnnaudit.cluster._PATIENCE", 0.5)
    with pytest.raises(AuditError, match="executor: no machine of the cluster is left"):
        make(ready.audit, [Errand("one", spec, ending, lambda *_: None)], ready.store)


CLUSTER = """
from ray.cluster_utils import Cluster

each = {"num_cpus": 1, "object_store_memory": 2**27, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=each)
second = cluster.add_node(**each)
print(cluster.address, flush=True)
if input() == "lose one":
    cluster.remove_node(second, allow_graceful=False)
    print("lost", flush=True)
    input()
cluster.shutdown()
"""


class Machines:
    """A cluster of two, of one core each, that somebody else has started."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT | {"RAY_USAGE_STATS_ENABLED": "0"},
        )
        self.address = self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def lose_one(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("lose one\n")
        self.process.stdin.flush()
        assert self.line() == "lost"


@pytest.fixture
def cluster() -> Iterator[Machines]:
    machines = Machines()
    yield machines
    machines.process.communicate("\n", timeout=60)


def test_a_lost_machine_changes_no_number(
    arguments: list[str], cluster: Machines, tmp_path: Path
) -> None:
    """What it was at waits for room, and gets it when the other one has nothing else to do."""
    arguments += ["technique=[waiting]"]
    address = f"executor.address={cluster.address}"
    process = _start(tmp_path, *arguments, "executor=ray", address)
    _wait(process, lambda: len([*tmp_path.glob("begun-*")]) == 2)
    cluster.lose_one()
    _wait(process, lambda: "process that computed it died" in _log(tmp_path))
    (tmp_path / "lost").touch()
    try:
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, said
    run_dir = _run_dir(tmp_path / "out")
    assert _log(tmp_path).count("WARNING the process that computed it died") == 1

    ran = _run(tmp_path, *arguments, f"output_dir={tmp_path / 'local'}")
    assert ran.returncode == 0, ran.stderr
    local = _run_dir(tmp_path / "local")
    for name in ("rows.parquet", "summary.csv"):
        assert (run_dir / "results" / name).read_bytes() == (local / "results" / name).read_bytes()


def test_a_unit_that_kills_whoever_takes_it_fails(
    arguments: list[str], cluster: Machines, tmp_path: Path
) -> None:
    """On a cluster that is joined; the other units are computed all the same."""
    more = ("technique=[poison]", "perturbation.haze.severities=[1]", "executor.retries=1")
    ran = _run(tmp_path, *arguments, *RAY, *more, f"executor.address={cluster.address}")
    assert ran.returncode == 4, ran.stderr
    assert (tmp_path / "deaths").read_text() == "one\n" * 2
    run_dir = _run_dir(tmp_path / "out")
    (failure, *_) = json.loads((run_dir / "summary.json").read_text())["failures"]
    assert failure["reason"] == "the process that computed it died; attempts: 2"
    rows = pd.read_parquet(run_dir / "results/rows.parquet")
    failed = rows.status == "failed"
    assert set(rows[failed].severity) == {"1"}
    assert len(rows[failed]["item"].unique()) == 24
    assert "ok" in set(rows[~failed].status)
    assert (run_dir / "report.html").exists()


def test_a_cluster_that_is_not_there_is_an_error(arguments: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    ran = _run(tmp_path, *arguments, "technique=[mortal]", *RAY, "executor.address=127.0.0.1:1")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("error: executor.address: cannot join a cluster")
    assert not (tmp_path / "died").exists()


@pytest.mark.parametrize(
    ("device", "has", "room"),
    [
        ("auto", {"CPU": 8}, (4, {"num_cpus": 2})),
        ("auto", {"CPU": 8, "GPU": 3}, (3, {"num_gpus": 1, "num_cpus": 0})),
        ("cuda", {"CPU": 1, "GPU": 9}, (5, {"num_gpus": 1, "num_cpus": 0})),
        ("cpu", {"CPU": 8, "GPU": 3}, (4, {"num_cpus": 2})),
        ("cpu", {"CPU": 1}, (1, {"num_cpus": 1})),
    ],
)
def test_there_is_an_actor_for_each_gpu_or_for_so_many_cores(device, has, room) -> None:
    """Of the cluster; what the process has that the audit was started in does not matter."""
    options = [f"device={device}", "executor=ray", "executor.cores=2", "executor.actors=5"]
    assert _room(has, load_specs(options)) == room


def test_a_cluster_without_the_gpus_that_are_asked_for_is_an_error() -> None:
    with pytest.raises(AuditError, match="device: 'cuda', but the cluster has no GPU"):
        _room({"CPU": 8}, load_specs(["device=cuda", "executor=ray"]))


def test_each_actor_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    """Ray hands out what it is told that there is: GPUs that nobody computes on will do."""
    ray = pytest.importorskip("ray")
    ray.init(
        "local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        object_store_memory=2**27,
        log_to_driver=False,
    )
    try:
        team = _Team(ray, load_specs(["executor=ray"]), Store(tmp_path))
        actors = [team.hire() for _ in range(team.room)]
        look = [
            one.__ray_call__.remote(lambda _: os.environ["CUDA_VISIBLE_DEVICES"]) for one in actors
        ]
        assert sorted(ray.get(look)) == ["0", "1"]
    finally:
        ray.shutdown()


def test_without_the_extra_it_is_named(overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('as if it were not there')\n")
    environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}
    ran = python(str(RUN), *overrides, "executor=ray", cwd=tmp_path, environment=environment)
    assert ran.returncode == 1
    assert "pip install 'cnnaudit[ray]'" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_cluster_run_exits_with_130(
    arguments: list[str], tmp_path: Path, sent: signal.Signals
) -> None:
    process = _start(tmp_path, *arguments, "technique=[rise]", *RAY, "batch_size=1")
    _wait(process, lambda: "actors on cpu" in _log(tmp_path))
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("interrupted; what was finished is in the store")
    assert "Traceback" not in said


def test_the_local_executor_never_imports_ray() -> None:
    code = "from cnnaudit import audit, cli, config, executors, execute; config.load_specs()"
    assert not loads({"ray"}, code)


def test_a_config_file_cannot_name_a_cluster_of_another(tmp_path: Path) -> None:
    """What comes back from it is unpickled here, so that whoever runs it could run any code."""
    (tmp_path / "experiment").mkdir()
    sent = "# @package _global_\ndefaults:\n  - override /executor: ray\nexecutor: {address: %s}\n"
    said = "experiment=sent"
    for address in ("ray://elsewhere:10001", "elsewhere:6379", "local"):
        (tmp_path / "experiment/sent.yaml").write_text(sent % address)
        with pytest.raises(AuditError, match=f"executor.address: '{address}' stands in a config"):
            load_specs([said], tmp_path)
        named = load_specs([said, f"executor.address={address}"], tmp_path)
        assert named.executor.address == address
    (tmp_path / "experiment/sent.yaml").write_text(sent % "auto")
    assert load_specs([said], tmp_path).executor.address == "auto"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["executor.actors=0"], "executor.actors: 0 is not a whole number, at least 1"),
        (["executor.cores=0"], "executor.cores: 0 is not a whole number, at least 1"),
        (["executor.retries=-1"], "executor.retries: -1 is not a whole number, at least 0"),
        (["executor.address=''"], "executor.address: '' is not a text"),
    ],
)
def test_mistakes_are_said_with_their_key(arguments: list[str], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        load_specs(["executor=ray", *arguments])
