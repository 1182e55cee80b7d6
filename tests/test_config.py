"""Configs: every shipped one composes, and every mistake is said with its key."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from cnnaudit import shipped
from cnnaudit.config import load_specs
from cnnaudit.image_sets.perturbations import PERTURBATIONS
from cnnaudit.metrics import metrics_of_heatmaps
from cnnaudit.sections import bind
from cnnaudit.targets import TARGETS
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import AuditError

CONF = shipped.locate("conf")


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_composes(path: Path) -> None:
    assert load_specs([f"experiment={path.stem}"]).models


def test_the_default_is_the_robot_audit() -> None:
    audit = load_specs()
    assert audit.name == "robot"
    assert [model.name for model in audit.models] == ["perception", "perception_mixed"]
    assert [s.name for s in audit.image_sets] == ["robot_lighting", "robot_ordinary"]
    assert {t.name for t in audit.techniques} == {
        *("saliency", "guided_saliency", "grad_cam", "hires_cam", "layer_cam"),
        *("center_prior", "smooth_random", "edges"),
    }
    assert [check.name for check in audit.checks] == [
        *("sees_the_obstacle", "looks_at_the_obstacle"),
        *("no_alarm_for_a_shadow", "looks_past_the_shadow"),
    ]
    overlap = ["mass_in_mask", "pointing_game", "iou"]
    assert [m.name for m in audit.metrics] == [*overlap, "mass_in_shadow"]
    assert audit.untrained_twin  # a check names it


@pytest.mark.parametrize(
    ("group", "registry"),
    [
        *(("technique", TECHNIQUES), ("metric", metrics_of_heatmaps()), ("target", TARGETS)),
        ("perturbation", PERTURBATIONS),
    ],
)
def test_everything_registered_has_a_config(group: str, registry: dict[str, object]) -> None:
    assert set(registry) <= {path.stem for path in (CONF / group).glob("*.yaml")}


def test_lists_choose_and_names_override() -> None:
    audit = load_specs(["technique=[layer_cam]", "technique.layer_cam.layer=encoder.4"])
    assert [t.name for t in audit.techniques] == ["layer_cam"]
    assert audit.techniques[0].parameters == {"layer": "encoder.4"}


def test_one_technique_under_two_names() -> None:
    audit = load_specs(["+technique.early={uses:hires_cam,layer:first_conv}"])
    (early,) = (technique for technique in audit.techniques if technique.name == "early")
    assert early.uses == "hires_cam"


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: p.relative_to(CONF).as_posix()
)
def test_every_option_can_be_chosen(path: Path) -> None:
    group = path.relative_to(CONF).parent.as_posix()
    listed = group not in ("executor", "report", "experiment")
    asks = "???" in path.read_text()
    named = "contrast=[colour,shadow,weather,presence]"
    contrasts = {"check": [named], "contrast": ["check=[]"]}.get(group, [])
    with pytest.raises(AuditError, match="must be given a value") if asks else nullcontext():
        load_specs([*contrasts, f"{group}=[{path.stem}]" if listed else f"{group}={path.stem}"])


def test_a_users_own_config_dir(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nname: mine\ntechnique: {saliency: {reduce: sum}}\n"
    (tmp_path / "experiment/mine.yaml").write_text(text)
    audit = load_specs(["experiment=mine"], tmp_path)
    assert audit.name == "mine"
    assert audit.techniques[0].parameters == {"reduce": "sum"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+technique.grad_cam.layr=x"], r"technique.grad_cam.layr: 'layr' .*'layer'"),
        (
            ["technique.saliency.reduce=mean"],
            r"technique.saliency.reduce: 'mean' is not .*max, sum",
        ),
        (
            ["technique.saliency.uses=salience"],
            r"saliency.uses: .*Did you mean .saliency.",
        ),
        (["metric.iou.threshold=high"], r"iou.threshold: 'high' is not a finite number or null"),
        (["metric.iou.threshold=nan"], r"metric.iou.threshold: nan is not a finite number or null"),
        (["target=[weights]", "target.weights.of=[1,inf]"], r"of: .* a list, each a finite number"),
        (["metric.pointing_game.tolerance=1.5"], r"tolerance: 1.5 is not a whole number"),
        (["metric.pointing_game.tolerance=true"], r"tolerance: True is not a whole number"),
        (["model=[]"], r"model: choose at least one"),
        (["image_set=[]"], r"image_set: choose at least one"),
        (["image_set=[folder]"], r"image_set.folder.root must be given a value"),
        (["+image_set.folder.root=photos"], r"image_set.folder is set but 'folder' is not chosen"),
        (["target=[class]"], r"target.class.of must be given a value"),
        (["contrast.colour.levels=[equal]"], r"levels: .* is not a list of two different levels"),
        (["contrast.colour.levels=[a,b,c]"], r"levels: .* is not a list of two different levels"),
        (["batch_size=0"], r"batch_size: 0 is not a whole number, at least 1"),
        (["seed=-1"], r"seed: -1 is not"),
        (["determinism=always"], r"determinism: 'always' .*strict, warn, off"),
        (["+model.perception.gives=scores"], r"gives: 'scores' .*logits, probabilities"),
        (
            ["+model.perception.gives=logits", "model.perception.task=regression"],
            r"gives: 'logits' is not null where the task is regression",
        ),
        (["+model.perception.output_entry=[0]"], r"output_entry: \[0\] is not the name or the pos"),
        (["allow_code=yes", "plugins=[]"], r"allow_code: 'yes' is not true or false"),
        (["name=a/b"], r"name: 'a/b' is not a name without slashes"),
        (["+nonsense=1"], r"nonsense: 'nonsense' is no allowed key"),
        (["model.perception.preprocessing.resize=[64]"], r"resize: \[64\] is not a list of 2"),
        (["model.perception.preprocessing.std=[1,0,1]"], r"std: .* above 0"),
        (["model.perception.builder=percepton"], r"builder: .*Did you mean 'perception'"),
        (
            ["model.perception.outputs.sensor=abc"],
            r"outputs.sensor: .abc. is not a number of outputs",
        ),
        (["model.perception.weights=shipped:nothing"], r"nothing is not among the files"),
        (["check.looks_past_the_shadow.at=[shade]"], r"shadow.at: 'shade' .*shadow"),
        (
            ["+check.sees_the_obstacle.at=[equal]"],
            r"sees_the_obstacle.require.difference: needs both levels, and at names equal",
        ),
        (
            ["+check.sees_the_obstacle.require.lift.min=0.1"],
            r"sees_the_obstacle.require.lift: 'true_cell_probability' is about answers",
        ),
        (
            ["+check.sees_the_obstacle.require.beats=[edges]"],
            r"sees_the_obstacle.require.beats: .* allowed are level and difference",
        ),
        (["check.looks_past_the_shadow.metric=mass_in_shade"], r"metric: .*Did you mean 'mass_in"),
        (["output_dir=${oc.env:NO_SUCH_VARIABLE}"], r"output_dir: .*NO_SUCH_VARIABLE"),
    ],
)
def test_a_mistake_is_said_with_its_key(overrides: list[str], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        load_specs(overrides)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["name=${oc.env:S}"], "name"),
        (["+image_set.robot_lighting.words={light:{left:'by ${oc.env:S}'}}"], "words.light.left"),
        (["store_dir=${oc.env:S}", "contrast.colour.factor=${store_dir}"], "colour.factor"),
        (["contrast.colour.levels=[equal,'${oc.env:NONE,x}']"], "contrast.colour.levels.1"),
        (["seed='${oc.decode:${oc.env:S}}'"], "seed"),
    ],
)
def test_what_outputs_tell_is_not_taken_from_the_environment(
    overrides: list[str], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config that somebody sends would else show secrets in a report that is mailed."""
    monkeypatch.setenv("S", "3")
    with pytest.raises(AuditError, match=rf"{key}: \${{oc.env:\w+}} may be a secret"):
        load_specs(overrides)


def test_places_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S", "3")
    of_data = ["image_set.robot_lighting.root=${oc.env:S}", "model.perception.weights=${oc.env:S}"]
    work = ["executor.workers='${oc.decode:${oc.env:S}}'", "output_dir=/${oc.env:S}"]
    audit = load_specs([*of_data, *work])
    assert audit.image_sets[0].root == audit.models[0].weights == Path("3").absolute()
    assert (audit.executor.workers, audit.store_dir) == (3, Path("/3/store"))


def test_a_choice_that_is_missing_lists_what_is_allowed() -> None:
    with pytest.raises(AuditError, match=r"perception.task is missing. Allowed: .*classification,"):
        load_specs(["~model.perception.task"])


def test_the_untrained_twin_is_made_where_it_is_asked_for() -> None:
    plain = ["experiment=none", "image_set=[robot_lighting]", "technique=[robot]"]
    assert not load_specs(plain).untrained_twin
    assert load_specs([*plain, "untrained_twin=true"]).untrained_twin
    assert load_specs([*plain, "contrast=[colour]"]).untrained_twin  # it is net of it


def test_parameters_are_bound_with_their_defaults() -> None:
    def technique(signals: object, *, layer: str, scale: float = 1.0) -> None: ...

    assert bind(technique, {"layer": "a", "scale": 2}, "t") == {"layer": "a", "scale": 2}
    assert bind(technique, {"layer": "a"}, "t") == {"layer": "a", "scale": 1.0}
    with pytest.raises(AuditError, match=r"t\.layer is missing"):
        bind(technique, {}, "t")


def test_a_parameter_without_a_type_is_said() -> None:
    def mine(signals: object, *, scale=1.0) -> None: ...

    with pytest.raises(AuditError, match=r"technique.t: the parameter 'scale' of mine has no anno"):
        bind(mine, {}, "technique.t")


def test_what_a_type_checker_alone_imports_may_stand_where_a_config_sets_nothing() -> None:
    """As in code of one's own that imports torch, or what not, under TYPE_CHECKING."""

    def lazy(signals: elsewhere.Signals, *, sides: list) -> elsewhere.Tensor: ...  # noqa: F821

    assert bind(lazy, {"sides": [3]}, "technique.t") == {"sides": [3]}

    def unreadable(signals: object, *, share: elsewhere.Share) -> None: ...  # noqa: F821

    with pytest.raises(AuditError, match=r"technique.t: the annotations of unreadable .* 'elsewhe"):
        bind(unreadable, {"share": 1}, "technique.t")


def test_what_is_no_parameter_of_somebodys_code_is_said() -> None:
    def mine(signals: object, order: float = 2.0, *, sides: tuple = ()) -> None: ...

    with pytest.raises(
        AuditError, match=r"'order' is .*; of mine it must stand after a \* to be one"
    ):
        bind(mine, {"order": 1.0}, "technique.t")
    with pytest.raises(AuditError, match=r"technique.t.sides: \[3\] is not of the type tuple"):
        bind(mine, {"sides": [3]}, "technique.t")
