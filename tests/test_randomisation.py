"""The randomisation check: networks of which it is known, and through the whole run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn

from cnnaudit import randomisation, randomising
from cnnaudit.audit import Invocation, prepare, run_audit
from cnnaudit.config import load_specs
from cnnaudit.executors import make_here
from cnnaudit.models import build_model
from cnnaudit.models.untrained import reinitialise
from cnnaudit.randomisation import find_randomisation, randomisation_table, to_randomise
from cnnaudit.randomising import layers_from_the_top
from cnnaudit.report.writing import write_report
from cnnaudit.specs import AuditSpec, SanitySpec
from cnnaudit.statistics import unit_ranks
from cnnaudit.store import digest_bytes
from cnnaudit.summary import to_csv
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.techniques.registry import technique
from cnnaudit.types import DIED, AuditError, Needs, Signals
from tests.sample_run import EVIL, build_run, hostile

CALLED = Invocation("test", [], "")
CHECKED = ["sanity=[randomisation]", "sanity.randomisation.items=2"]

TOP_DECIDES = '''
import torch
from torch import nn

class Scale(nn.Module):
    """One number for the whole picture: it has no spread to be drawn with."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, images):
        return images * self.factor

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.head = Scale(), nn.Linear(3 * 6 * 8, 2)

    def forward(self, images):
        return self.head(self.scale(images).flatten(1))
'''


@pytest.fixture
def picture_only() -> Iterator[None]:
    """A technique that claims to see the network, and shows the picture."""

    def picture(signals: Signals) -> Tensor:
        return signals.images.mean(dim=1)

    technique(needs=Needs(input_gradient=True), title="Picture", citation="")(picture)
    yield
    del TECHNIQUES["picture"]


def spec(overrides: list[str], *more: str) -> AuditSpec:
    return load_specs(["experiment=none", *overrides, "metric=[]", *CHECKED, *more])


def run(audit: AuditSpec) -> tuple[Path, pd.DataFrame]:
    run_dir = run_audit(audit, CALLED).run_dir
    table = pd.read_csv(
        run_dir / "results/randomisation.csv", keep_default_na=False, na_values=[""]
    )
    return run_dir, table


def test_ranks_correlate_as_scipy_says() -> None:
    first, second = np.random.default_rng(0).integers(0, 9, (2, 5, 7)).astype(float)
    one, other = unit_ranks(first), unit_ranks(second)
    assert one is not None
    assert other is not None
    assert one @ other == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
    assert unit_ranks(np.full((2, 3), 4.0)) is None


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.lower, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.upper = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.upper(self.norm(self.lower(images)).relu().mean(dim=(2, 3)))
        return found


def test_the_scores_layer_comes_first_and_what_is_not_called_last() -> None:
    layers = layers_from_the_top(_Net().eval(), torch.zeros(1, 3, 8, 8), None)
    assert [path for path, _ in layers] == ["upper", "norm", "lower", "unused"]


def test_new_parameters_are_seeded_and_leave_the_global_generator_alone() -> None:
    one, other = nn.Linear(6, 4), nn.Linear(6, 4)
    state = torch.get_rng_state()
    for module in (one, other):
        reinitialise(module, torch.Generator().manual_seed(7))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.weight, other.weight)
    generator = torch.Generator().manual_seed(7)
    reinitialise(one, generator)
    reinitialise(other, generator)
    assert not torch.equal(one.weight, other.weight)


def test_a_module_without_a_rule_keeps_mean_and_spread() -> None:
    module = nn.Module()
    module.weight = nn.Parameter(3 + 0.5 * torch.randn(10_000))
    before = module.weight.detach().clone()
    reinitialise(module, torch.Generator().manual_seed(0))
    assert abs(spearmanr(before, module.weight.detach()).statistic) < 0.05
    assert float(module.weight.detach().mean()) == pytest.approx(3, abs=0.03)
    assert float(module.weight.detach().std()) == pytest.approx(0.5, abs=0.03)


def test_normalisation_forgets_what_it_met() -> None:
    norm = nn.BatchNorm2d(4)
    norm(5 + torch.randn(8, 4, 3, 3))
    reinitialise(norm, torch.Generator().manual_seed(0))
    assert torch.equal(norm.running_mean, torch.zeros(4))  # type: ignore[arg-type]


def test_the_model_itself_is_left_as_it_was(overrides: list[str]) -> None:
    (model_spec,) = load_specs(["experiment=none", *overrides]).models
    model = build_model(model_spec, 0)
    before = deepcopy(model.state_dict())
    sanity = SanitySpec("randomisation", (), 2, 3, 0, 0.5)
    image = torch.zeros(1, 3, 64, 80)
    steps = list(randomising._cascade(model, image, model_spec, sanity))
    assert [share for _, _, share in steps][-1] == 1
    assert len(steps) == 3
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(twin is not model for twin, _, _ in steps)


def test_a_network_whose_top_decides_forgets_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saliency of a linear network is |w| of the class that the network itself predicted."""
    (tmp_path / "top_decides.py").write_text(TOP_DECIDES)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name in "abcd":
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    model = (
        "{builder: factory, factory: 'top_decides:Net', weights: none, labels: [x, y], "
        "preprocessing: {resize: [6, 8], resample: box, channels: rgb, mean: [0.5, 0.5, 0.5], "
        "std: [1, 1, 1]}, task: classification, target: predicted}"
    )
    audit = spec(
        ["model=[]", f"+model.net={model}", "image_set=[folder]", "allow_code=true",
         f"image_set.folder.root={folder}", f"output_dir={tmp_path / 'out'}", "device=cpu"],
        "technique=[saliency]",
        "sanity.randomisation.items=3",
        "sanity.randomisation.seed=4",
    )  # fmt: skip
    _, table = run(audit)
    assert list(table.layers) == ["head", "head … scale"]
    assert list(table.share) == [290 / 291, 1]
    net = build_model(audit.models[0], audit.seed)
    random = deepcopy(net)
    reinitialise(random.head, torch.Generator().manual_seed(4))  # type: ignore[arg-type]
    chosen = sorted("abcd", key=lambda name: digest_bytes(f"{name}.png".encode()))[:3]
    names = {path.stem: path for path in folder.iterdir()}
    values = []
    for name in chosen:
        pixels = np.asarray(Image.open(names[name]), np.float32) / 255 - 0.5
        answer = net(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
        label = int(answer.argmax())
        maps = [
            one.head.weight[label].detach().abs().view(3, 48).amax(dim=0) for one in (net, random)
        ]
        values.append(spearmanr(*maps).statistic)
    assert table.correlation[0] == pytest.approx(np.mean(values), abs=1e-6)
    assert table.correlation[1] == table.correlation[0]  # a single number has no spread


@pytest.mark.usefixtures("picture_only")
def test_what_shows_the_picture_is_named(overrides: list[str], tmp_path: Path) -> None:
    config = tmp_path / "conf/technique"
    config.mkdir(parents=True)
    (config / "picture.yaml").write_text("picture: {uses: picture}\n")
    audit = load_specs(
        ["experiment=none", *overrides, "metric=[]", *CHECKED, "technique=[saliency,picture]"],
        tmp_path / "conf",
    )
    run_dir, table = run(audit)
    picture = table[table.technique == "picture"]
    assert list(picture.step) == [1, 2, 3, 4, 5]
    assert picture.correlation.to_numpy() == pytest.approx(1)
    assert set(picture.units) == {2}
    saliency = table[table.technique == "saliency"]
    assert saliency.correlation.iloc[-1] < 0.5
    findings = json.loads((run_dir / "summary.json").read_text())["findings"]
    (finding,) = (one for one in findings if one.get("sanity") == "randomisation")
    assert "1.00 under Picture (mean rank correlation on robot_lighting)" in finding["text"]
    assert "they are not about this network" in finding["text"]
    page = (run_dir / "report.html").read_text()
    assert '<section id="randomisation">' in page
    # The finding, the name of its link, and beside the technique.
    assert page.count("not about this network") == 3


def test_the_same_command_again_loads_no_model(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = spec(overrides, "technique=[saliency,hires_cam]")
    first, _ = run(audit)
    cells = sorted(audit.store_dir.glob("??/*"))
    monkeypatch.setattr(randomising, "curves", None)
    second, _ = run(audit)
    assert sorted(audit.store_dir.glob("??/*")) == cells
    name = "results/randomisation.csv"
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_what_cannot_be_made_says_why(overrides: list[str]) -> None:
    _, table = run(spec(overrides, "technique=[cam]"))  # the network has no linear end
    (line,) = table.to_dict("records")
    assert line["status"].startswith("not_applicable: ")
    assert np.isnan(line["correlation"])


def test_the_report_shows_any_name_as_text_and_steps_that_lack(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path)
    about = {"sanity": EVIL, "image_set": hostile("photos"), "model": hostile("perception")}
    numbers = {"low": 0.5, "high": 0.9, "units": 4, "scored": 4, "total": 4, "bound": 0.6}
    lines = [
        {**about, **numbers, "target": EVIL, "technique": name, "step": step, "share": step / 2,
         "layers": f"{EVIL} … low{step}", "correlation": 0.7, "status": "ok"}
        for name, step in (("a", 1), ("a", 2), ("b", 1))
    ]  # fmt: skip
    path = run_dir / "results/randomisation.csv"
    path.write_bytes(to_csv(pd.DataFrame(lines, columns=randomisation.COLUMNS)))
    page = write_report(run_dir).read_text(encoding="utf-8")
    section = page.split('<section id="randomisation">')[1].split('<section id="heatmaps">')[0]
    assert 'href="#randomisation"' in page
    assert "<script" not in section
    assert [
        text in section for text in ("low1 (50\u00a0%)", "low2 (100\u00a0%)", "[0.50, 0.90]")
    ] == [True] * 3
    assert section.count("0.70") == 3
    assert section.count("not about this network") == 1  # of "b" not everything was random


def test_a_model_that_cannot_be_copied_leaves_the_audit_incomplete(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_model: nn.Module) -> None:
        raise TypeError("cannot be copied")

    audit = spec(overrides, "technique=[saliency]")
    with monkeypatch.context() as patched:
        patched.setattr(randomising, "deepcopy", refuse)
        outcome = run_audit(audit, CALLED)
    assert not outcome.complete
    (failure,) = json.loads((outcome.run_dir / "summary.json").read_text())["failures"]
    assert failure["reason"] == "TypeError: cannot be copied"
    assert failure["items"] == 2
    assert list(failure["missing"]) == ["saliency"]
    assert run_audit(audit, CALLED).complete  # it is tried again


def test_references_are_checked_only_by_name(overrides: list[str]) -> None:
    techniques = "technique=[saliency,edges]"
    assert spec(overrides, techniques).sanities[0].techniques == ("saliency",)
    named = spec(overrides, techniques, "sanity.randomisation.technique=[edges]")
    assert named.sanities[0].techniques == ("edges",)
    _, table = run(named)
    assert table.correlation.to_numpy() == pytest.approx(1)


def test_configs_say_what_is_wrong(overrides: list[str]) -> None:
    for more, message in (
        ("sanity.randomisation.technique=[salency]", "sanity.randomisation.technique: 'salency'"),
        ("sanity.randomisation.items=0", "sanity.randomisation.items: 0 is not a whole number"),
        ("sanity.randomisation.steps=0", "sanity.randomisation.steps: 0 is not a whole number"),
        ("sanity.randomisation.bound=1.5", "sanity.randomisation.bound: 1.5 is not a correlation"),
        ("sanity.randomisation.uses=random", "Did you mean 'randomisation'"),
    ):
        with pytest.raises(AuditError, match=message):
            spec(overrides, more)


def test_findings_say_it_in_words() -> None:
    about = {"sanity": "randomisation", "image_set": "folder", "model": "net", "bound": 0.5}
    table = pd.DataFrame(
        {**about, "target": "", "technique": name, "share": share, "correlation": value,
         "high": value + 0.1}
        for name, share, value in (
            ("saliency", 0.4, 0.9), ("saliency", 1.0, 0.1),
            ("guided", 1.0, 0.8), ("cam", 1.0, np.nan),
        )
    )  # fmt: skip
    titles = {"saliency": "Saliency", "guided": "Guided"}
    (finding,) = find_randomisation(table, titles)
    assert finding["text"] == (
        "With every layer of net re-initialised, heatmaps agree with what they were by 0.80 under "
        "Guided (mean rank correlation on folder): they are not about this network, the bound is "
        "0.5; the others agree by 0.10 under Saliency."
    )
    (finding,) = find_randomisation(table.assign(correlation=[-0.9, -0.1, -0.001, np.nan]), titles)
    assert "by 0.00 under Guided and −0.10 under Saliency (" in finding["text"]
    (finding,) = find_randomisation(table[table.technique == "saliency"], titles)
    assert finding["text"].endswith("by 0.10 under Saliency (mean rank correlation on folder): "
                                    "they depend on what it learnt.")  # fmt: skip
    unsure = table[table.technique == "saliency"].assign(high=0.7)  # of few images
    (finding,) = find_randomisation(unsure, titles)
    assert finding["text"].endswith(": images are too few to place all below the bound, 0.5.")


def test_all_that_are_over_the_bound_are_named_the_worst_first_and_of_which_target() -> None:
    about = {"sanity": "s", "image_set": "folder", "model": "net", "bound": 0.5, "share": 1.0}
    lines = [("cam", "cat", 0.5), ("guided", "dog", 0.9), ("cam", "dog", 0.7)]
    table = pd.DataFrame(
        {**about, "technique": name, "target": target, "correlation": value, "high": 1.0}
        for name, target, value in lines
    )
    (finding,) = find_randomisation(table, {"guided": "Guided", "cam": "CAM"})
    assert finding["text"] == (
        "With every layer of net re-initialised, heatmaps agree with what they were by 0.90 under "
        "Guided of dog, 0.70 under CAM of dog and 0.50 under CAM of cat (mean rank correlation on "
        "folder): they are not about this network, the bound is 0.5."
    )
    (finding,) = find_randomisation(table[table.target == "cat"], {})
    assert "by 0.50 under cam (mean" in finding["text"]


@pytest.fixture
def moody() -> Iterator[list[int]]:
    """A technique that raises at some of its calls, which are yielded to be named."""
    raises: list[int] = []
    calls = 0

    def moody(signals: Signals) -> Tensor:
        nonlocal calls
        calls += 1
        if calls in raises:
            raise ValueError("not now")
        return signals.input_gradients["plain"].sum(dim=1)

    technique(needs=Needs(input_gradient=True), title="Moody", citation="")(moody)
    yield raises
    del TECHNIQUES["moody"]


@pytest.mark.parametrize("call", [1, 2, 4])  # of one of two batches as it is, or randomised
def test_what_fails_in_a_curve_is_a_failure_and_made_again(
    overrides: list[str], moody: list[int], call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(randomising, "_AT_ONCE", 1)
    moody.append(call)
    audit = spec(overrides, "+technique.moody.uses=moody", "technique=[]")
    outcome = run_audit(audit, CALLED)
    assert not outcome.complete
    failures = json.loads((outcome.run_dir / "summary.json").read_text())["failures"]
    assert [(one["reason"], one["items"], one["missing"]) for one in failures] == [
        ("ValueError: not now", 1, {"moody": ["randomisation"]})
    ]
    table = pd.read_csv(outcome.run_dir / "results/randomisation.csv")
    assert set(table.total) == {2}
    assert sorted(set(table.scored)) == ([1, 2] if call == 4 else [1])
    assert run_audit(audit, CALLED).complete  # it is tried again


def test_a_picture_that_cannot_be_read_meanwhile_counts_and_is_tried_again(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = spec(overrides, "technique=[saliency]")
    real = randomising.curves

    def without_one(model, spec, items, *more):
        path = items[0].image.path
        away = path.rename(path.with_suffix(".away"))
        try:
            return real(model, spec, items, *more)
        finally:
            away.rename(path)

    with monkeypatch.context() as patched:
        patched.setattr(randomising, "curves", without_one)
        outcome = run_audit(audit, CALLED)
    assert not outcome.complete
    table = pd.read_csv(outcome.run_dir / "results/randomisation.csv")
    assert (set(table.total), set(table.scored)) == ({2}, {1})
    again = run_audit(audit, CALLED)
    assert again.complete
    assert set(pd.read_csv(again.run_dir / "results/randomisation.csv").scored) == {2}


def test_pictures_are_checked_as_they_are_and_not_perturbed(overrides: list[str]) -> None:
    ready = prepare(spec(overrides, "technique=[saliency]", "perturbation=[brightness]"))
    assert len(ready.image_sets) == 2
    (curves,) = to_randomise(ready.audit, ready.requests, ready.image_sets)
    assert curves.image_set == "robot_lighting"


def test_what_a_process_died_of_is_not_tried_here(overrides: list[str]) -> None:
    ready = prepare(spec(overrides, "technique=[saliency]"))
    known, store = (ready.audit, ready.requests, ready.image_sets), ready.store
    (sound,) = to_randomise(*known)
    for dead in ([sound.items[0]], sound.items):
        died = {("perception", "robot_lighting"): {item.id for item in dead}}
        (curves,) = to_randomise(*known, died)
        make_here(ready.audit, [*curves.errands(store)], store)
        (gap,) = curves.gaps(store)
        assert (gap["reason"], gap["items"]) == (DIED, len(dead))
        assert set(randomisation_table([curves], store).scored) == {2 - len(dead)}
    make_here(ready.audit, [*sound.errands(store)], store)
    assert [*sound.gaps(store)] == [*sound.errands(store)] == []
