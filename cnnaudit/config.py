"""A composed config → frozen specs; every error names the key, what it got and what is allowed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnaudit import shipped
from cnnaudit.image_sets import READERS
from cnnaudit.metrics import BEHAVIOUR, OVERLAP
from cnnaudit.models import BUILDERS
from cnnaudit.targets import TARGETS
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import (
    AuditError,
    AuditSpec,
    GridSpec,
    ImageSetSpec,
    MetricSpec,
    ModelSpec,
    OutputAxis,
    Preprocessing,
    TargetSpec,
    TechniqueSpec,
)

RESAMPLING = ("box", "bilinear", "bicubic", "lanczos", "nearest")
TASKS = tuple(dict.fromkeys(metric.task for metric in BEHAVIOUR.values()))
_MISSING: Any = object()
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
    return spec


class Section:
    """A part of the config that is read key by key; `close` refuses what nobody asked for."""

    def __init__(self, path: str, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise AuditError(f"{path}: {values!r} is not a set of keys")
        self.path = path
        self.values: dict[str, Any] = {str(key): value for key, value in values.items()}
        self.read: set[str] = set()

    def key(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str, default: Any = _MISSING) -> Any:
        self.read.add(name)
        value = self.values.get(name, default)
        if value is _MISSING:
            raise AuditError(f"{self.key(name)} is missing")
        if value == "???":
            raise AuditError(f"{self.key(name)} must be given a value: {self.key(name)}=…")
        return value

    def text(self, name: str, default: Any = _MISSING) -> str:
        value = self.take(name, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, value, "a text")
        return value

    def file_name(self, name: str) -> str:
        value = self.text(name)
        if value in (".", "..") or "/" in value or "\\" in value or "\0" in value:
            raise self.wrong(name, value, "a name without slashes")
        return value

    def choice(self, name: str, allowed: Iterable[str], default: Any = _MISSING) -> str:
        value, allowed = self.take(name, default), tuple(allowed)
        if value not in allowed:
            raise AuditError(f"{self.key(name)}: {unknown(str(value), allowed)}")
        return str(value)

    def integer(self, name: str, *, minimum: int) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.wrong(name, value, f"a whole number, at least {minimum}")
        return value

    def numbers(
        self, name: str, length: int, kind: type[int] | type[float] = float
    ) -> tuple[Any, ...]:
        value = self.take(name)
        good = isinstance(value, list) and len(value) == length
        if not good or not all(isinstance(x, int | kind) and x >= 0 for x in value):
            raise self.wrong(name, value, f"a list of {length} numbers, none below 0")
        return tuple(map(kind, value))

    def mapping(self, name: str) -> dict[str, str]:
        value = self.take(name, {})
        if not isinstance(value, Mapping):
            raise self.wrong(name, value, "a set of keys")
        return {str(key): str(text) for key, text in value.items()}

    def section(self, name: str, default: Any = _MISSING) -> Section:
        return Section(self.key(name), self.take(name, default))

    def rest(self) -> dict[str, Any]:
        """Return every key that nobody has read yet."""
        names = [name for name in self.values if name not in self.read]
        return {name: self.take(name) for name in names}

    def wrong(self, name: str, value: Any, allowed: str) -> AuditError:
        return AuditError(f"{self.key(name)}: {value!r} is not {allowed}")

    def close(self) -> None:
        for name in self.values:
            if name not in self.read:
                raise AuditError(f"{self.key(name)}: {unknown(name, sorted(self.read), 'key')}")


def unknown(got: str, allowed: Iterable[str], kind: str = "value") -> str:
    """Return what is wrong with a name: what it was, the near miss, what is allowed."""
    allowed = tuple(allowed)
    near = difflib.get_close_matches(got, allowed, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return f"{got!r} is no allowed {kind}.{guess} Allowed: {', '.join(allowed) or 'none'}"


def bind(function: Callable[..., Any], parameters: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Bind a config's parameters to a function's keyword-only ones, defaults filled in.

    Raises AuditError for a name that the function lacks, a value of another type, or one missing.
    """
    accepted = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for name in parameters:
        if name not in accepted:
            raise AuditError(f"{where}.{name}: {unknown(name, accepted, 'parameter')}")
    kinds = get_type_hints(function, localns={"Tensor": object})  # torch is not imported for this
    bound = {}
    for name, parameter in accepted.items():
        value = parameters.get(name, parameter.default)
        if value is inspect.Parameter.empty:
            raise AuditError(f"{where}.{name} is missing")
        if not _fits(value, kinds[name]):
            raise AuditError(f"{where}.{name}: {value!r} is not {_say(kinds[name])}")
        bound[name] = value
    return bound


def _fits(value: Any, annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    kinds = get_args(annotation) or (annotation,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(kinds)) or (isinstance(value, int) and float in kinds)


def _say(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    kinds = get_args(annotation) or (annotation,)
    return " or ".join(words.get(kind, "null") for kind in kinds)


def _chosen(
    root: Section, group: str, make: Callable[[str, Section], T], at_least: int = 1
) -> tuple[T, ...]:
    entries = root.section(group, {})
    if len(entries.values) < at_least:
        raise AuditError(f"{group}: choose at least one, for example '{group}=[…]'")
    chosen = []
    for name in entries.values:
        entry = entries.section(name)
        if not {"uses", "builder"} & set(entry.values):
            raise AuditError(
                f"{entry.path} is set but {name!r} is not chosen; add it to the list: "
                f"'{group}=[…,{name}]'"
            )
        chosen.append(make(name, entry))
        entry.close()
    return tuple(chosen)


def _model(name: str, entry: Section) -> ModelSpec:
    weights = entry.take("weights")
    axes = entry.section("outputs", {})
    return ModelSpec(
        name=name,
        builder=entry.choice("builder", BUILDERS),
        weights=None if weights in (None, "none") else shipped.resolve(entry.text("weights")),
        preprocessing=_preprocessing(entry.section("preprocessing")),
        score_from=None if entry.take("score_from", None) is None else entry.text("score_from"),
        roles=entry.mapping("roles"),
        task=entry.choice("task", TASKS),
        outputs=tuple(_axis(axes, axis) for axis in axes.values),
        target=entry.choice("target", _targets_without_parameters()),
    )


def _targets_without_parameters() -> tuple[str, ...]:
    return tuple(
        name
        for name, function in TARGETS.items()
        if all(
            p.kind is not p.KEYWORD_ONLY for p in inspect.signature(function).parameters.values()
        )
    )


def _preprocessing(entry: Section) -> Preprocessing:
    resize = entry.numbers("resize", 2, int)
    if 0 in resize:
        raise entry.wrong("resize", list(resize), "a height and a width, at least 1")
    std = entry.numbers("std", 3)
    if 0 in std:
        raise entry.wrong("std", list(std), "a list of numbers above 0")
    preprocessing = Preprocessing(
        resize=(resize[0], resize[1]),
        resample=entry.choice("resample", RESAMPLING),
        channels=entry.choice("channels", ("rgb", "bgr")),
        mean=entry.numbers("mean", 3),
        std=std,
    )
    entry.close()
    return preprocessing


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
