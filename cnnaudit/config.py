"""A composed config → frozen specs; every error names the key, what it got and what is allowed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnaudit import shipped
from cnnaudit.image_sets import READERS
from cnnaudit.metrics import BEHAVIOUR, OVERLAP
from cnnaudit.models import BUILDERS, read_labels
from cnnaudit.sections import Section, bind, unknown
from cnnaudit.targets import TARGETS
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import (
    IMAGE_SWAP,
    RESAMPLING,
    AuditError,
    AuditSpec,
    CheckSpec,
    ContrastSpec,
    GridSpec,
    ImageSetSpec,
    MetricSpec,
    ModelSpec,
    OutputAxis,
    Preprocessing,
    Requirement,
    TargetSpec,
    TechniqueSpec,
)

TASKS = tuple(dict.fromkeys(metric.task for metric in BEHAVIOUR.values()))
T = TypeVar("T")


def load_specs(overrides: Iterable[str] = (), config_dir: Path | None = None) -> AuditSpec:
    """Compose the shipped config with overrides, as the command line does, into specs."""
    return to_specs(_compose(overrides, config_dir))


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed config as plain containers, its interpolations resolved."""
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise AuditError(f"{error.full_key or 'config'}: {error.msg or error}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}


def to_specs(config: DictConfig) -> AuditSpec:
    """Turn a composed config into specs; raise AuditError if anything in it is off."""
    root = Section("", plain(config))
    executor, report = root.section("executor"), root.section("report")
    spec = AuditSpec(
        name=root.file_name("name"),
        models=_chosen(root, "model", _model),
        image_sets=_chosen(root, "image_set", _image_set),
        targets=_chosen(root, "target", _target, at_least=0),
        techniques=_chosen(root, "technique", _technique, at_least=0),
        metrics=_chosen(root, "metric", _metric, at_least=0),
        contrasts=_chosen(root, "contrast", _contrast, at_least=0),
        checks=_chosen(root, "check", _check, at_least=0),
        left_out=(),
        gate=root.boolean("gate"),
        seed=root.integer("seed", minimum=0),
        device=root.text("device"),
        batch_size=root.integer("batch_size", minimum=1),
        workers=executor.integer("workers", minimum=0),
        determinism=root.choice("determinism", ("strict", "warn", "off")),
        output_dir=shipped.resolve(root.text("output_dir")),
        store_dir=shipped.resolve(root.text("store_dir")),
        executor=executor.choice("uses", ("local",)),
        report=report.choice("uses", ("single_file",)),
    )
    for section in (executor, report, root):
        section.close()
    return _about_what_is_chosen(spec)


def _chosen(
    root: Section, group: str, make: Callable[[str, Section], T], at_least: int = 1
) -> tuple[T, ...]:
    entries = root.section(group, {})
    if len(entries.values) < at_least:
        raise AuditError(f"{group}: choose at least one, for example '{group}=[…]'")
    chosen = []
    for name in entries.values:
        entry = entries.section(name)
        if not {"uses", "builder", "factor", "metric"} & set(entry.values):
            raise AuditError(
                f"{entry.path} is set but {name!r} is not chosen; add it to the list: "
                f"'{group}=[…,{name}]'"
            )
        chosen.append(make(name, entry))
        entry.close()
    return tuple(chosen)


def _model(name: str, entry: Section) -> ModelSpec:
    axes = entry.section("outputs", {})
    builder = entry.choice("builder", BUILDERS)
    weights, pretrained = _weights(entry, by_name=bool(BUILDERS[builder].library))
    return ModelSpec(
        name=name,
        builder=builder,
        weights=weights,
        preprocessing=_preprocessing(entry.section("preprocessing")),
        score_from=None if entry.take("score_from", None) is None else entry.text("score_from"),
        roles=entry.mapping("roles"),
        task=entry.choice("task", TASKS),
        outputs=tuple(_axis(axes, axis) for axis in axes.values),
        target=entry.choice("target", _targets_without_parameters()),
        arch=entry.text("arch") if BUILDERS[builder].library else "",
        pretrained=pretrained,
        labels=_labels(entry),
    )


def _weights(entry: Section, *, by_name: bool) -> tuple[Path | None, str]:
    """Return the file of the weights, or the name of published ones; neither: untrained."""
    if entry.take("weights") in (None, "none"):
        return None, ""
    text = entry.text("weights")
    if by_name and text.isidentifier():  # a path has a suffix or a slash
        return None, text
    return shipped.resolve(text), ""


def _labels(entry: Section) -> tuple[str, ...]:
    labels = entry.take("labels", None)
    if labels is None:
        return ()
    if isinstance(labels, str):
        return read_labels(shipped.resolve(labels), entry.key("labels"))
    if isinstance(labels, list) and labels:
        return tuple(map(str, labels))
    raise entry.wrong("labels", labels, "a list of labels, or a text file with one in each line")


def _targets_without_parameters() -> tuple[str, ...]:
    return tuple(
        name
        for name, function in TARGETS.items()
        if all(
            p.kind is not p.KEYWORD_ONLY for p in inspect.signature(function).parameters.values()
        )
    )


def _preprocessing(entry: Section) -> Preprocessing:
    resize, crop = _geometry(entry)
    std = entry.numbers("std", 3)
    if 0 in std:
        raise entry.wrong("std", list(std), "a list of numbers above 0")
    preprocessing = Preprocessing(
        resize=resize,
        resample=entry.choice("resample", RESAMPLING),
        channels=entry.choice("channels", ("rgb", "bgr")),
        mean=entry.numbers("mean", 3),
        std=std,
        crop=crop,
    )
    entry.close()
    return preprocessing


def _geometry(entry: Section) -> tuple[tuple[int, int] | int, tuple[int, int] | None]:
    """Return what a picture is resized to, both sides or the shorter one, and its centre crop."""
    shorter = isinstance(entry.take("resize"), int)
    resize = (entry.integer("resize", minimum=1),) * 2 if shorter else _sides(entry, "resize")
    crop = None if entry.take("crop", None) is None else _sides(entry, "crop")
    if crop is None:
        if shorter:
            raise AuditError(
                f"{entry.key('crop')} is missing: with the shorter side alone, "
                f"resize: {resize[0]}, pictures would differ in size"
            )
        return resize, None
    if crop[0] > resize[0] or crop[1] > resize[1]:
        raise entry.wrong("crop", list(crop), "a part of what the picture is resized to")
    return (resize[0] if shorter else resize), crop


def _sides(entry: Section, name: str) -> tuple[int, int]:
    height, width = entry.numbers(name, 2, int)
    if 0 in (height, width):
        raise entry.wrong(name, [height, width], "a height and a width, at least 1")
    return height, width


def _axis(axes: Section, name: str) -> OutputAxis:
    labels = axes.take(name)
    if isinstance(labels, int) and not isinstance(labels, bool) and labels > 0:
        return OutputAxis(name, tuple(map(str, range(labels))))
    if isinstance(labels, list) and labels:
        return OutputAxis(name, tuple(map(str, labels)))
    raise axes.wrong(name, labels, "a number of outputs or a list of their labels")


def _image_set(name: str, entry: Section) -> ImageSetSpec:
    uses = entry.choice("uses", READERS)
    words = entry.section("words", {})
    grids = entry.take("grids", [])
    unit = entry.take("unit", None)
    if not isinstance(grids, list):
        raise entry.wrong("grids", grids, "a list of grids")
    return ImageSetSpec(
        name=name,
        uses=uses,
        root=shipped.resolve(entry.text("root")),
        unit=None if unit is None else entry.text("unit"),
        exemplars=entry.integer("exemplars", minimum=0),
        grids=tuple(_grid(Section(f"{entry.path}.grids.{n}", g)) for n, g in enumerate(grids)),
        words={factor: words.mapping(factor) for factor in words.values},
        parameters=bind(READERS[uses], entry.rest(), entry.path),
    )


def _grid(entry: Section) -> GridSpec:
    levels = entry.take("levels", [])
    if not isinstance(levels, list):
        raise entry.wrong("levels", levels, "a list of levels")
    grid = GridSpec(entry.text("rows"), entry.text("cols"), tuple(map(str, levels)))
    entry.close()
    return grid


def _target(name: str, entry: Section) -> TargetSpec:
    uses = entry.choice("uses", TARGETS)
    return TargetSpec(name, uses, bind(TARGETS[uses], entry.rest(), entry.path))


def _technique(name: str, entry: Section) -> TechniqueSpec:
    uses = entry.choice("uses", TECHNIQUES)
    return TechniqueSpec(name, uses, bind(TECHNIQUES[uses].compute, entry.rest(), entry.path))


def _metric(name: str, entry: Section) -> MetricSpec:
    uses = entry.choice("uses", OVERLAP)
    region = entry.text("region", "mask")
    return MetricSpec(name, uses, region, bind(OVERLAP[uses].compute, entry.rest(), entry.path))


def group_options(group: str, config_dir: Path | None) -> list[str]:
    """Return the options of a group, the shipped ones and those of the user's own folder."""
    if not group.isidentifier():
        return []
    folders = [shipped.locate("conf"), *([config_dir] if config_dir else [])]
    return sorted({path.stem for folder in folders for path in folder.glob(f"{group}/*.yaml")})


def explain_key(key: str, overrides: Iterable[str], config_dir: Path | None) -> str:
    """Say what is wrong with a key that the composed config does not have, with the near miss."""
    choices = [text for text in overrides if group_options(text.partition("=")[0], config_dir)]
    section: Any = _compose(choices, config_dir)
    parts = key.split(".")
    if parts[0] not in section and group_options(parts[0], config_dir):
        section = OmegaConf.create({parts[0]: {}})  # a group of which nothing was chosen
    for depth, part in enumerate(parts):
        if not isinstance(section, DictConfig) or part not in section:
            if depth == 1 and part in group_options(parts[0], config_dir):
                chosen = f"'{parts[0]}=[{part}]'"
                return f"{key}: {part!r} is not part of this audit; choose it: {chosen}"
            known = [str(name) for name in section] if isinstance(section, DictConfig) else []
            return f"{key}: {unknown(part, known, 'key')}"
        section = section[part]
    return f"{key} cannot be set here"


def _compose(overrides: Iterable[str], config_dir: Path | None) -> DictConfig:
    extra = [f"hydra.searchpath=[file://{config_dir.absolute()}]"] if config_dir else []
    with initialize_config_dir(str(shipped.locate("conf")), version_base="1.3"):
        return compose("audit", [*overrides, *extra])


def _contrast(name: str, entry: Section) -> ContrastSpec:
    levels = entry.texts("levels")
    if len(levels) != 2 or levels[0] == levels[1]:
        raise entry.wrong("levels", list(levels), "a list of two different levels")
    return ContrastSpec(
        name=name,
        image_set=entry.text("image_set"),
        factor=entry.text("factor"),
        levels=(levels[0], levels[1]),
        blocks=entry.texts("blocks"),
        within=entry.texts("within", []),
    )


def _check(name: str, entry: Section) -> CheckSpec:
    coverage = entry.number("coverage", 0.9)
    if coverage is None or not 0 <= coverage <= 1:
        raise entry.wrong("coverage", coverage, "a share, 0 to 1")
    check = CheckSpec(
        name=name,
        contrast=entry.text("contrast"),
        metric=entry.text("metric"),
        techniques=entry.texts("technique", []),
        requirements=_requirements(entry.section("require")),
        coverage=coverage,
    )
    if not check.requirements:
        raise AuditError(f"{entry.path}.require: nothing is required; {_REQUIRE}")
    return check


_REQUIRE = "allowed are level, lift and difference, each with min or max, and beats"


def _requirements(entry: Section) -> tuple[Requirement, ...]:
    required = []
    for statistic in ("level", "lift", "difference"):
        if statistic in entry.values:
            required.append(_bounds(statistic, entry.section(statistic)))
    if "beats" in entry.values:
        required.append(Requirement("beats", references=entry.texts("beats")))
    entry.close()
    return tuple(required)


def _bounds(statistic: Any, entry: Section) -> Requirement:
    requirement = Requirement(statistic, entry.number("min", None), entry.number("max", None))
    if (requirement.minimum is None) == (requirement.maximum is None):
        raise AuditError(f"{entry.path}: one bound is needed, min or max")
    entry.close()
    return requirement


def _about_what_is_chosen(spec: AuditSpec) -> AuditSpec:
    """Leave out, and note, contrasts and checks about image sets that are not chosen."""
    image_sets = {image_set.name for image_set in spec.image_sets}
    contrasts = {contrast.name: contrast for contrast in spec.contrasts}
    for check in spec.checks:
        if check.contrast not in contrasts:
            raise AuditError(
                f"check.{check.name}.contrast: {check.contrast!r} is not chosen; choose it, "
                f"'contrast=[{check.contrast}]', or leave the check out"
            )
    kept = {name: c for name, c in contrasts.items() if c.image_set in image_sets}
    checks = tuple(check for check in spec.checks if check.contrast in kept)
    for check in checks:
        _check_names(check, spec)
    if spec.gate and not checks:
        raise AuditError("gate: true, but there is no check that could fail; add 'check=[…]'")
    left_out = tuple(
        f"{kind} {one.name}: it is about {contrasts[contrast].image_set}, which is not chosen"
        for kind, named in (("contrast", spec.contrasts), ("check", spec.checks))
        for one in named
        if (contrast := getattr(one, "contrast", one.name)) not in kept
    )
    return replace(spec, contrasts=tuple(kept.values()), checks=checks, left_out=left_out)


def _check_names(check: CheckSpec, spec: AuditSpec) -> None:
    """Refuse what does not exist; what exists and is not chosen is for the judging to say."""
    overlap = {name: metric.bounds for name, metric in OVERLAP.items()}
    overlap |= {metric.name: OVERLAP[metric.uses].bounds for metric in spec.metrics}
    known = {**overlap, **{name: metric.bounds for name, metric in BEHAVIOUR.items()}}
    techniques = {*TECHNIQUES, *(technique.name for technique in spec.techniques)}
    where = f"check.{check.name}"
    if check.metric not in known:
        raise AuditError(f"{where}.metric: {unknown(check.metric, known)}")
    if (check.metric in overlap) != bool(check.techniques):
        need = "needs" if check.metric in overlap else "takes no"
        raise AuditError(f"{where}.technique: {check.metric!r} {need} techniques")
    for name in check.techniques:
        if name not in techniques:
            raise AuditError(f"{where}.technique: {unknown(name, sorted(techniques))}")
    for requirement in check.requirements:
        for name in requirement.references:
            if name not in (*techniques, IMAGE_SWAP):
                allowed = sorted((*techniques, IMAGE_SWAP))
                raise AuditError(f"{where}.require.beats: {unknown(name, allowed)}")
        _check_bound(requirement, known[check.metric], f"{where}.require")


def _check_bound(requirement: Requirement, bounds: tuple[float, float], where: str) -> None:
    """Refuse a bound that nothing or everything keeps."""
    low, high = bounds
    if requirement.statistic == "difference":
        low, high = low - high, high - low
    elif requirement.statistic == "lift":
        low, high = -float("inf"), 1.0
    for bound in (requirement.minimum, requirement.maximum):
        if bound is not None and not low <= bound <= high:
            raise AuditError(
                f"{where}.{requirement.statistic}: the bound {bound:g} is outside the range "
                f"of the metric, {low:g} to {high:g}"
            )
