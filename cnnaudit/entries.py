"""One entry of each config group → its frozen spec; every mistake is said with its key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cnnaudit import own_code, shipped
from cnnaudit.image_sets import READERS
from cnnaudit.image_sets.perturbations import PERTURBATIONS, SEVERITIES
from cnnaudit.metrics import BEHAVIOUR, OVERLAP, behaviour, metrics_of_heatmaps
from cnnaudit.models import BUILDERS, read_labels
from cnnaudit.sections import MOST_SEED, Section, bind, parameters_of
from cnnaudit.specs import (
    BETWEEN,
    CHANNEL_COUNTS,
    DISPLAY,
    EXECUTORS,
    RESAMPLING,
    AgreementSpec,
    CheckSpec,
    ContrastSpec,
    ExecutorSpec,
    GridSpec,
    ImageSetSpec,
    MetricSpec,
    ModelSpec,
    OutputAxis,
    PerturbationSpec,
    Preprocessing,
    Requirement,
    SanitySpec,
    TargetSpec,
    TechniqueSpec,
)
from cnnaudit.targets import SIGNS, TARGETS
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import CLEAN, AuditError

GIVES = ("logits", "probabilities")  # what the outputs are
SANITIES = ("randomisation",)
TASKS = tuple(dict.fromkeys(metric.task for metric in BEHAVIOUR.values()))


def read_model(name: str, entry: Section, *, allow_code: bool) -> ModelSpec:
    axes = entry.section("outputs", {})
    chosen = entry.choice("builder", BUILDERS)
    builder = BUILDERS[chosen]
    factory, arguments = _factory(entry, allow_code) if builder.own_code else ("", {})
    weights, pretrained = _weights(entry, by_name=bool(builder.library))
    labels, labels_from = _labels(entry, by_name=bool(builder.library))
    task = entry.choice("task", TASKS)
    return ModelSpec(
        name=name,
        builder=chosen,
        weights=weights,
        preprocessing=_preprocessing(entry.section("preprocessing")),
        score_from=None if entry.take("score_from", None) is None else entry.text("score_from"),
        roles=entry.mapping("roles"),
        task=task,
        outputs=tuple(_axis(axes, axis) for axis in axes.values),
        target=entry.choice("target", _targets_without_parameters()),
        arch=entry.text("arch") if builder.library else "",
        pretrained=pretrained,
        labels=labels,
        labels_from=labels_from,
        factory=factory,
        arguments=arguments,
        output_entry=_output_entry(entry),
        gives=_gives(entry, task),
    )


def _gives(entry: Section, task: str) -> str:
    """Return what the outputs are, which may be left open; of a regression they are neither."""
    declared, usual = entry.take("gives", None), behaviour.GIVES.get(task, "")
    if declared is None:
        return usual
    if not usual:
        raise entry.wrong("gives", declared, f"null where the task is {task}")
    return entry.choice("gives", GIVES)


def _factory(entry: Section, allow_code: bool) -> tuple[str, dict[str, Any]]:
    """Return what makes a model of a user's own, "module:function", and its arguments."""
    factory = entry.text("factory")
    if not re.fullmatch(r"[\w.]+:\w+", factory):
        raise entry.wrong("factory", factory, "a module and a function, my_package.my_model:build")
    own_code.check_open(allow_code, entry.key("factory"), factory)
    return factory, dict(entry.section("arguments", {}).values)


def _output_entry(entry: Section) -> str:
    named = entry.take("output_entry", None)
    if isinstance(named, bool) or not isinstance(named, int | str | None):
        raise entry.wrong("output_entry", named, "the name or the position of an entry")
    return "" if named is None else str(named)


def _weights(entry: Section, *, by_name: bool) -> tuple[Path | None, str]:
    """Return the file of the weights, or the name of published ones; neither: untrained."""
    if entry.take("weights") in (None, "none"):
        return None, ""
    text = entry.text("weights")
    if by_name and _is_published(text):
        return None, text
    return shipped.resolve(text), ""


def _is_published(text: str) -> bool:
    return re.fullmatch(r"\w+", text) is not None  # a path has a suffix or a slash


def _labels(entry: Section, *, by_name: bool) -> tuple[tuple[str, ...], str]:
    """Return the labels of the classes, or the name of the published weights that have them."""
    labels = entry.take("labels", None)
    if labels is None:
        return (), ""
    if isinstance(labels, str) and by_name and _is_published(labels):
        return (), labels
    if isinstance(labels, str):
        return read_labels(shipped.resolve(labels), entry.key("labels")), ""
    if isinstance(labels, list) and labels:
        return tuple(map(str, labels)), ""
    raise entry.wrong("labels", labels, "a list of labels, or a text file with one in each line")


def _targets_without_parameters() -> tuple[str, ...]:
    return tuple(name for name, target in TARGETS.items() if not parameters_of(target.declared))


def _preprocessing(entry: Section) -> Preprocessing:
    resize, crop = _geometry(entry)
    channels = entry.choice("channels", CHANNEL_COUNTS)
    std = entry.numbers("std", CHANNEL_COUNTS[channels])
    if 0 in std:
        raise entry.wrong("std", list(std), "a list of numbers above 0")
    mean = entry.numbers("mean", CHANNEL_COUNTS[channels])
    if not all(0 <= one <= 1 for one in mean):
        raise entry.wrong("mean", list(mean), "a list of numbers in 0–1, as pixels are: of 255ths")
    preprocessing = Preprocessing(
        resize=resize,
        resample=entry.choice("resample", RESAMPLING),
        channels=channels,
        mean=mean,
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


def read_image_set(name: str, entry: Section) -> ImageSetSpec:
    uses = entry.choice("uses", READERS)
    words, places = entry.section("words", {}), entry.section("places", {})
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
        places={factor: places.mapping(factor) for factor in places.values},
        parameters=bind(READERS[uses], entry.rest(), entry.path),
    )


def _grid(entry: Section) -> GridSpec:
    levels = entry.take("levels", [])
    if not isinstance(levels, list):
        raise entry.wrong("levels", levels, "a list of levels")
    grid = GridSpec(entry.text("rows"), entry.text("cols"), tuple(map(str, levels)))
    entry.close()
    return grid


def read_perturbation(name: str, entry: Section) -> PerturbationSpec:
    if name == CLEAN:
        raise AuditError(f"{entry.path}: {CLEAN!r} is the level of the pictures as they are")
    uses, severities = entry.choice("uses", PERTURBATIONS), entry.take("severities")
    if not isinstance(severities, list) or not _are_severities(severities):
        allowed = f"a list of some of {', '.join(map(str, SEVERITIES))}, each once"
        raise entry.wrong("severities", severities, allowed)
    return PerturbationSpec(name, uses, tuple(severities))


def _are_severities(values: list[Any]) -> bool:
    known = all(type(value) is int and value in SEVERITIES for value in values)
    return known and 0 < len(values) == len(set(values))


def read_preview(root: Section) -> Path | None:
    if root.take("preview", None) is None:
        return None
    preview = root.text("preview")
    if not preview.lower().endswith(".png"):
        raise root.wrong("preview", preview, "the name of a PNG file")
    return shipped.resolve(preview)


def read_target(name: str, entry: Section) -> TargetSpec:
    uses, sign = entry.choice("uses", TARGETS), entry.choice("sign", SIGNS, "positive")
    return TargetSpec(name, uses, bind(TARGETS[uses].declared, entry.rest(), entry.path), sign)


def read_technique(name: str, entry: Section) -> TechniqueSpec:
    uses, display = entry.choice("uses", TECHNIQUES), entry.choice("display", DISPLAY, "maximum")
    technique = TECHNIQUES[uses]
    parameters = bind(technique.compute, entry.rest(), entry.path)
    if technique.check is not None:
        technique.check(parameters, entry.path)
    return TechniqueSpec(name, uses, parameters, display)


def read_metric(name: str, entry: Section) -> MetricSpec:
    known = metrics_of_heatmaps()
    uses = entry.choice("uses", known)
    region = entry.text("region", "mask") if uses in OVERLAP else ""
    return MetricSpec(name, uses, region, bind(known[uses].compute, entry.rest(), entry.path))


def read_contrast(name: str, entry: Section) -> ContrastSpec:
    levels = entry.texts("levels")
    if len(levels) != 2 or levels[0] == levels[1]:
        raise entry.wrong("levels", list(levels), "a list of two different levels")
    return ContrastSpec(
        name=name,
        image_set=entry.text("image_set"),
        factor=entry.text("factor"),
        levels=(levels[0], levels[1]),
        blocks=entry.texts("blocks", []),
        within=entry.texts("within", []),
        net_of=entry.texts("net_of", []),
    )


def read_check(name: str, entry: Section) -> CheckSpec:
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
        each=entry.texts("each", []),
        at=entry.texts("at", []),
    )
    if not check.requirements:
        raise AuditError(f"{entry.path}.require: nothing is required; {_REQUIRE}")
    return check


def read_agreement(name: str, entry: Section) -> AgreementSpec:
    between = entry.choice("between", BETWEEN)
    contrast = entry.text("contrast") if between == "levels" else ""
    return AgreementSpec(name, between, contrast, entry.texts("technique", []))


def read_sanity(name: str, entry: Section) -> SanitySpec:
    entry.choice("uses", SANITIES)
    bound = entry.number("bound")
    if bound is None or not 0 < bound < 1:
        raise entry.wrong("bound", bound, "a correlation between 0 and 1")
    return SanitySpec(
        name=name,
        techniques=entry.texts("technique", []),
        items=entry.integer("items", minimum=1),
        steps=entry.integer("steps", minimum=1),
        seed=entry.integer("seed", minimum=0, maximum=MOST_SEED),
        bound=bound,
    )


def read_executor(entry: Section) -> ExecutorSpec:
    shards = entry.integer("shards", minimum=1, default=1)
    shard = _integer_or_none(entry, "shard", minimum=0)
    if shard is not None and shard >= shards:
        raise entry.wrong("shard", shard, f"below {entry.key('shards')}, which is {shards}")
    uses, workers = entry.choice("uses", EXECUTORS), entry.integer("workers", minimum=0)
    retries = entry.integer("retries", minimum=0)
    if uses == "local":
        return ExecutorSpec(uses, workers, shards, shard, retries=retries)
    return ExecutorSpec(
        uses,
        workers,
        shards,
        shard,
        address=None if entry.take("address") is None else entry.text("address"),
        actors=_integer_or_none(entry, "actors", minimum=1),
        cores=entry.integer("cores", minimum=1),
        retries=retries,
    )


def _integer_or_none(entry: Section, name: str, *, minimum: int) -> int | None:
    return None if entry.take(name, None) is None else entry.integer(name, minimum=minimum)


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
