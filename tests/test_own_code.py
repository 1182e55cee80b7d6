"""A user's own network, technique and metric through the command line, in real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.processes import RUN, Process, python

MODEL = """
from dataclasses import dataclass
from torch import Tensor, nn

@dataclass
class Answer:
    features: Tensor
    probabilities: Tensor

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, classes)

    def forward(self, images):
        features = self.relu(self.conv(images))
        return Answer(features, self.head(features.mean(dim=(2, 3))).softmax(dim=1))
"""
TECHNIQUE = """
from cnnaudit.techniques import technique
from cnnaudit.types import Needs

@technique(needs=Needs(input_gradient=True), title="Mine", citation="none")
def my_gradient(signals):
    return signals.input_gradients["plain"].abs().sum(dim=1)
"""
CONFIG = """
mine:
  builder: factory
  factory: my_package.net:Net
  arguments: {classes: 3}
  weights: none
  preprocessing:
    {resize: [16, 20], resample: box, channels: rgb, mean: [0, 0, 0], std: [1, 1, 1]}
  output_entry: probabilities
  gives: probabilities
  score_from: head
  task: classification
  target: predicted
"""
ARGUMENTS = (
    *("--config-dir=conf", "experiment=none", "model=[mine]", "image_set=[folder]", "device=cpu"),
    *("image_set.folder.root=photos", "technique=[mine]", "plugins=[my_package.maps]"),
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with pictures, a package and configs, as a user has them."""
    for folder in ("photos/masks", "my_package", "conf/model", "conf/technique", "conf/experiment"):
        (tmp_path / folder).mkdir(parents=True)
    Image.effect_noise((40, 32), 60).convert("RGB").save(tmp_path / "photos/a.png")
    mask = Image.new("L", (40, 32))
    mask.paste(255, (10, 10, 30, 30))
    mask.save(tmp_path / "photos/masks/a.png")
    (tmp_path / "my_package/net.py").write_text(MODEL)
    (tmp_path / "my_package/maps.py").write_text(TECHNIQUE)
    (tmp_path / "conf/model/mine.yaml").write_text(CONFIG)
    (tmp_path / "conf/technique/mine.yaml").write_text("mine: {uses: my_gradient}\n")
    sent = "# @package _global_\nallow_code: true\nplugins: [my_package.maps]\n"
    (tmp_path / "conf/experiment/sent.yaml").write_text(sent)
    return tmp_path


def _run(project: Path, *arguments: str) -> Process:
    environment = {"COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
    return python(str(RUN), *arguments, cwd=project, environment=environment)


def _cells(project: Path) -> dict[str, int]:
    latest = max((project / "outputs/audit").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    found: dict[str, int] = json.loads((latest / "manifest.json").read_text())["cells"]
    return found


def test_own_code_runs_and_is_run_again_where_it_was_edited(project: Path) -> None:
    first = _run(project, *ARGUMENTS, "allow_code=true")
    assert first.returncode == 0, first.stderr
    assert _cells(project) == {"planned": 2, "found": 0, "computed": 2}
    (run,) = (project / "outputs/audit").iterdir()
    rows = pd.read_parquet(run / "results/rows.parquet")
    assert set(rows[rows.technique == "mine"].status) == {"ok"}

    _run(project, *ARGUMENTS, "allow_code=true")
    assert _cells(project) == {"planned": 2, "found": 2, "computed": 0}
    for edited, computed in (("maps", 1), ("net", 2)):
        file = project / f"my_package/{edited}.py"
        file.write_text(file.read_text() + "# edited\n")
        assert _run(project, *ARGUMENTS, "allow_code=true").returncode == 0
        assert _cells(project) == {"planned": 2, "found": 2 - computed, "computed": computed}


def test_what_own_code_imports_from_beside_its_package_counts(project: Path) -> None:
    maps = project / "my_package/maps.py"
    maps.write_text(f"import beside\n{maps.read_text()}")
    for value, computed in ((1, 2), (2, 1)):
        (project / "beside.py").write_text(f"VALUE = {value}\n")
        assert _run(project, *ARGUMENTS, "allow_code=true").returncode == 0
        assert _cells(project)["computed"] == computed
    runs = sorted((project / "outputs/audit").iterdir())
    told = [json.loads((run / "manifest.json").read_text())["digests"]["code"] for run in runs]
    assert {*told[0]} == {"model.mine", "technique.mine"}
    assert told[0]["model.mine"] == told[1]["model.mine"]
    assert told[0]["technique.mine"] != told[1]["technique.mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "plugins: my_package.maps is code of your own, which runs only with allow_code=true"),
        (("plugins=[]", "technique=[]"), "model.mine.factory: my_package.net:Net is code of your"),
        (("experiment=sent",), "allow_code: true counts only when it is given on the command line"),
        (("seed=1,2", "experiment=sent", "-m"), "allow_code: true counts only when it is given"),
        (("allow_code=true", "plugins=[my_package.mops]"), "plugins: my_package.mops cannot be im"),
    ],
)
def test_closed_doors_are_said_and_nothing_runs(
    project: Path, arguments: tuple[str, ...], message: str
) -> None:
    for file in ("net", "maps"):
        (project / f"my_package/{file}.py").write_text("open('it_ran', 'w')\n")
    ran = _run(project, *ARGUMENTS, *arguments)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: ")
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (project / "it_ran").exists()


def test_a_multirun_may_run_code_when_the_command_line_says_so(project: Path) -> None:
    ran = _run(project, "-m", *ARGUMENTS, "seed=1,2", "allow_code=true")
    assert ran.returncode == 0, ran.stderr
    assert len(list((project / "outputs/audit").iterdir())) == 2


EVIL = "{_target_: my_package.evil.Callback}"
LOGGER = "{one: {'()': my_package.evil.Callback}}, root: {handlers: [one]}"
SETTINGS = {
    "callbacks": f"hydra: {{callbacks: {{mine: {EVIL}}}}}",
    "an escape": f'"hy\\x64ra": {{callbacks: {{mine: {EVIL}}}}}',
    "job_logging": f"hydra: {{job_logging: {{version: 1, handlers: {LOGGER}}}}}",
    "launcher": f"hydra: {{launcher: {EVIL}}}",
    "overrides": "hydra: {overrides: {hydra: [++hydra.callbacks.mine._target_=my_package.evil]}}",
    "job": "hydra: {job: {env_set: {PYTHONPATH: my_package}}}",
}


def _send(project: Path, setting: str) -> list[str]:
    """Write configs that would have Hydra run code, and return how the audit is called."""
    evil = "from pathlib import Path\nPath('ran').touch()\n"
    (project / "my_package/evil.py").write_text(f"{evil}\ndef Callback(**_):\n    {evil!r}\n")
    (project / "conf/experiment/sent.yaml").write_text(f"# @package _global_\n{setting}\n")
    (project / "conf/experiment/harmless.yaml").write_text("# @package _global_\nseed: 1\n")
    (project / "conf/my-own/kind").mkdir(parents=True)
    (project / "conf/my-own/kind/a.yaml").write_text("# @package _global_\nseed: 2\n")
    (project / "conf/my-own/kind/b.yaml").write_text(f"# @package _global_\n{setting}\n")
    return [text for text in ARGUMENTS if "experiment=" not in text and "config-dir" not in text]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_config_file_cannot_have_hydra_run_code(project: Path, setting: str) -> None:
    arguments = _send(project, SETTINGS[setting])
    called = ("--config-dir=conf", "experiment=sent", "allow_code=true")
    process = _run(project, *arguments, *called)
    assert process.returncode == 1
    key = "callbacks" if setting == "an escape" else setting
    assert process.stderr.startswith(f"error: hydra.{key}: a config file cannot set Hydra itself")
    assert not (project / "ran").exists()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (["-cd", "conf"], "hydra.callbacks: a config file cannot"),
        (["-cd=conf"], "hydra.callbacks: a config file cannot"),
        (["--config-d", "conf"], "hydra.callbacks: a config file cannot"),
        (
            ["--config-dir", "photos", "--config-dir", "conf"],
            "hydra.callbacks: a config file cannot",
        ),
        (["--config-dir=linked"], "hydra.callbacks: a config file cannot"),
        (
            ["-m", "-cd", "conf", "experiment=harmless,sent"],
            "hydra.callbacks: a config file cannot",
        ),
        (["-m", "-cd", "conf", "experiment=glob(*t)"], "hydra.callbacks: a config file cannot"),
        (["-m", "-cd", "conf", "+my-own/kind=a,b"], "hydra.callbacks: a config file cannot"),
        (["hydra.searchpath=[file://conf]"], "hydra.searchpath=[file://conf]: cnnaudit does not"),
        (["-m", "+hydra.sweeper.params.experiment='a,sent'"], "+hydra.sweeper.params.experiment="),
        (["--config-path", "conf"], "--config-path: cnnaudit does not take it"),
        (["-cp=conf", "-cn=experiment/sent"], "--config-path: cnnaudit does not take it"),
        (["--experimental-rerun", "conf/x.pickle"], "--experimental-rerun: cnnaudit does not"),
    ],
)
def test_however_its_folder_is_named(project: Path, named: list[str], message: str) -> None:
    arguments = _send(project, SETTINGS["callbacks"])
    (project / "linked").mkdir()
    for group in (project / "conf").iterdir():
        (project / "linked" / group.name).symlink_to(group)
    chosen = [] if "-m" in named else ["experiment=sent"]
    process = _run(project, *arguments, *named, *chosen)
    assert process.returncode == 1, process.stderr
    assert process.stderr.startswith(f"error: {message}")
    assert not (project / "ran").exists()


@pytest.mark.parametrize("chooser", ["${now:%S}", "${oc.env:ASKED,b}"])
def test_a_config_file_does_not_choose_by_what_changes(project: Path, chooser: str) -> None:
    """What is composed when Hydra acts on it would not be what was looked at before."""
    arguments = _send(project, f"defaults: [/my-own/kind: '{chooser}']")
    process = _run(project, *arguments, "--config-dir=conf", "experiment=sent")
    assert process.returncode == 1
    assert process.stderr.startswith(f"error: defaults: {chooser} chooses no config; allowed are ")


def test_what_the_command_line_asks_of_hydra_counts(project: Path) -> None:
    arguments = ["+hydra.job.env_set.ASKED=here", "--cfg", "hydra"]
    process = _run(project, *ARGUMENTS, *arguments)
    assert process.returncode == 0, process.stderr
    assert "ASKED: here" in process.stdout


# --- what somebody's code may do ------------------------------------------------------------------

RETURNED = {  # name → what it returns of saliency maps `g` (B, H, W), and why it fails
    "one_map": ("g[0]", "ValueError: it returned a tensor (16, 20), expected: a tensor (B, h, w)"),
    "a_number": ("g.sum()", "ValueError: it returned a tensor ()"),
    "one_too_few": ("g[:-1]", "ValueError: it returned a tensor (2, 16, 20)"),
    "empty_maps": ("g[:, :0]", "ValueError: it returned a tensor (3, 0, 20)"),
    "an_axis_more": ("g[:, None]", "ValueError: it returned a tensor (3, 1, 16, 20)"),
    "nothing": ("None", "TypeError: it returned a NoneType, expected: a tensor (B, h, w)"),
    "an_array": ("g.numpy()", "TypeError: it returned a ndarray"),
    "complex_maps": ("g + 0j", "TypeError: it returned complex numbers, expected: real ones"),
    "undeclared": ("(g, {'mean': g.mean((1, 2))})", "ValueError: it returned the diagnostics"),
    "leaves": ("sys.exit(0)", "SystemExit: 0"),
}
BAD_TECHNIQUE = """

@technique(needs=Needs(input_gradient=True), title="{name}", citation="none")
def {name}(signals):
    g = signals.input_gradients["plain"].abs().sum(dim=1)
    return {returned}
"""


def test_a_technique_that_gives_no_heatmaps_fails_alone(project: Path) -> None:
    """None is broadcast to what it is not, and none ends the audit as if it were done."""
    _more_pictures(project)
    with (project / "my_package/maps.py").open("a") as file:
        file.write("import sys\n")
        for name, (returned, _) in RETURNED.items():
            file.write(BAD_TECHNIQUE.format(name=name, returned=returned))
    for name in RETURNED:
        (project / f"conf/technique/{name}.yaml").write_text(f"{name}:\n  uses: {name}\n")
    chosen = f"technique=[mine,{','.join(RETURNED)}]"
    result = _run(project, *ARGUMENTS, "allow_code=true", chosen)
    assert result.returncode == 4, result.stderr
    assert "INCOMPLETE" in result.stdout
    (run,) = (project / "outputs/audit").iterdir()
    assert (run / "report.html").exists()
    rows = pd.read_parquet(run / "results/rows.parquet")
    assert "failed" not in set(rows[rows.technique.isin(["mine", ""])].status)
    for name, (_, reason) in RETURNED.items():
        mine = rows[rows.technique == name]
        assert set(mine.status) == {"failed"}, name
        assert mine.reason.str.startswith(reason).all(), [*mine.reason]


METRICS = {  # name → what it does with an overlay `o` of two images, and what is wrong with it
    "hits_one": (
        "o.share[:1]",
        "ValueError: hits_one returned a Tensor (1,), expected: a tensor (2,",
    ),
    "means_all": (
        "float(o.share.mean())",
        "ValueError: means_all returned a float, expected: a ten",
    ),
    "raises": ("o.shares", "AttributeError: 'Overlay' object has no attribute 'shares'"),
    "blackens": (
        "o.heatmaps.zero_().sum((1, 2))",
        "ValueError: blackens wrote into its overlay; it",
    ),
    "spoils": (
        "o.positive.fill_(1).sum((1, 2))",
        "ValueError: spoils wrote into its overlay; it m",
    ),
}
BAD_METRIC = """
from cnnaudit.metrics.registry import overlap_metric

@overlap_metric(title="{name}", meaning="none", chance=lambda o: None)
def {name}(o):
    return {returned}
"""


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_that_cannot_measure_is_said_before_anything_is_computed(
    project: Path, name: str
) -> None:
    """One that writes into what all of them share would change the numbers of the others."""
    returned, reason = METRICS[name]
    with (project / "my_package/maps.py").open("a") as file:
        file.write(BAD_METRIC.format(name=name, returned=returned))
    (project / "conf/metric").mkdir()
    (project / f"conf/metric/{name}.yaml").write_text(f"{name}: {{uses: {name}, region: mask}}\n")
    result = _run(project, *ARGUMENTS, "allow_code=true", f"metric=[{name},mass_in_mask]")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: metric.{name}: {name} fails ({reason}"), result.stderr
    assert not (project / "outputs/audit").exists()


def _more_pictures(project: Path) -> None:
    for name in "bc":
        Image.effect_noise((40, 32), 60).convert("RGB").save(project / f"photos/{name}.png")


FORWARD = {  # before the forward pass of CNN → which pictures fail, and how
    "if len(images) > 1: raise torch.OutOfMemoryError('full')": (0, ""),
    "if (images.mean((1, 2, 3)) > 0.9).any(): raise ValueError('blank')": (1, "ValueError: blank"),
    "if (images.mean((1, 2, 3)) > 0.9).any(): sys.exit(0)": (1, "SystemExit: 0"),
}


@pytest.mark.parametrize("line", FORWARD)
def test_a_network_that_fails_costs_the_pictures_that_it_fails_on(project: Path, line: str) -> None:
    """Also when its pictures are made for the report."""
    _more_pictures(project)
    Image.new("RGB", (20, 16), "white").save(project / "photos/white.png")
    file = project / "my_package/net.py"
    begin = "    def forward(self, images):\n"
    edited = file.read_text().replace(begin, f"{begin}        {line}\n")
    file.write_text(f"import sys, torch\n{edited}")
    result = _run(project, *ARGUMENTS, "allow_code=true")
    failing, reason = FORWARD[line]
    assert result.returncode == (4 if failing else 0), result.stderr
    (run,) = (project / "outputs/audit").iterdir()
    rows = pd.read_parquet(run / "results/rows.parquet")
    failed = rows[rows.status == "failed"]
    assert set(failed["item"]) == ({"white.png"} if failing else set())
    assert set(failed["reason"]) == ({reason} if failing else set())
    assert (run / "report.html").exists()
    pictures = json.loads((run / "results/illustrations.json").read_text())["pictures"]
    assert len(pictures) == 4 - failing


def test_a_factory_that_ends_the_process_is_an_error(project: Path) -> None:
    file = project / "my_package/net.py"
    file.write_text(file.read_text().replace("super().__init__()", "raise SystemExit(0)"))
    result = _run(project, *ARGUMENTS, "allow_code=true")
    assert result.returncode == 1
    assert "model.mine.factory: my_package.net:Net raised SystemExit: 0" in result.stderr


def test_code_that_is_edited_while_a_run_goes_on_counts_as_it_was(project: Path) -> None:
    """What it made lies under the code that made it: the next run computes all of it again."""
    file = project / "my_package/maps.py"
    edits = 'import pathlib; p = pathlib.Path(__file__); p.write_text(p.read_text() + "# later\\n")'
    file.write_text(file.read_text().replace("    return", f"    {edits}\n    return"))
    assert _run(project, *ARGUMENTS, "allow_code=true").returncode == 0
    as_it_was = file.read_text().replace("# later\n", "")
    file.write_text(as_it_was.replace(edits, "pass"))  # what it does not edit is another text
    assert _run(project, *ARGUMENTS, "allow_code=true").returncode == 0
    assert _cells(project)["computed"] == 1
    store = project / "outputs/store"
    kept = [json.loads(path.read_bytes()) for path in store.glob("*/*/fields.json")]
    sources = {json.dumps(one["source"]) for one in kept if one.get("technique") == "my_gradient"}
    assert len(sources) == 2, "one of each run, though the first one's file changed meanwhile"
