"""A composed config → frozen specs; every error names the key, what it got and what is allowed."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import YAMLError

from cnnaudit import entries, own_code, shipped, untold
from cnnaudit.image_sets.perturbed import perturbed_name
from cnnaudit.metrics import BEHAVIOUR, OVERLAP
from cnnaudit.sections import MOST_SEED, Section, check_no_alias, unknown
from cnnaudit.specs import (
    COMPARED,
    REPORTS,
    AgreementSpec,
    AuditSpec,
    CheckSpec,
    ContrastSpec,
    Requirement,
)
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import IN_ROW, UNTRAINED_TWIN, AuditError

T = TypeVar("T")
_UNSTEADY = ("now", "oc.env")  # resolvers that give something else each time, or may
_MADE_BY = {"model": "builder", "contrast": "factor", "check": "metric", "agreement": "between"}


def load_specs(overrides: Iterable[str] = (), config_dir: Path | None = None) -> AuditSpec:
    """Compose the shipped config with overrides, as the command line does, into specs."""
    overrides = tuple(overrides)
    return to_specs(_compose(overrides, config_dir), overrides)


def stored_specs(text: str, overrides: Iterable[str], command: str) -> tuple[AuditSpec, str]:
    """Turn a run's stored config, keys of it set anew, into specs; return the config as well.

    `command` is what does so, as a message about code of a user's own names it.
    """
    overrides = tuple(overrides)
    try:
        check_no_alias(text, "the stored config")
        stored = OmegaConf.create(text)
        assert isinstance(stored, DictConfig)
        for name in (re.split(r"[.=]", override)[0] for override in overrides):
            if name not in stored and not name.startswith("+"):
                raise AuditError(f"{name}: {unknown(name, map(str, stored), 'key')}")
        stored.merge_with_dotlist([override.lstrip("+") for override in overrides])
    except (OmegaConfBaseException, YAMLError, AssertionError, ValueError) as error:
        raise AuditError(f"the stored config cannot be read again: {error}") from error
    if plain(stored).get(own_code.KEY) is True and not own_code.given(overrides):
        raise AuditError(
            f"{own_code.KEY}: this run used code of your own: {command} {own_code.GIVEN}"
        )
    return to_specs(stored, overrides), config_text(stored)


def config_text(config: DictConfig) -> str:
    """Return a composed config as YAML, the same for all shards of it.

    It is not resolved: what ${oc.env:…} stands for may be a secret, and stays out of every output.
    """
    common = copy.deepcopy(config)
    if "shard" in common.get("executor", {}):
        common.executor.shard = None
    return OmegaConf.to_yaml(common)


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed config as plain containers, its interpolations resolved.

    Raises AuditError if they cannot be, or if a secret would be in what outputs tell.
    """
    try:
        with untold.noted() as asked:
            values = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise AuditError(f"{error.full_key or 'config'}: {error.msg or error}") from error
    if asked:
        untold.check_untold(config)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}


def to_specs(config: DictConfig, overrides: Iterable[str]) -> AuditSpec:
    """Turn a composed config into specs; raise AuditError if anything in it is off.

    `overrides` are what the command line said: it alone can allow code of a user's own.
    """
    root = Section("", plain(config))
    allow_code = own_code.open_door(root.boolean("allow_code"), overrides)
    plugins = root.texts("plugins")
    own_code.import_plugins(plugins, allow_code)
    executor, report = root.section("executor"), root.section("report")
    work = entries.read_executor(executor)
    own_code.check_cluster(work.address, overrides)
    spec = AuditSpec(
        name=root.file_name("name"),
        models=_chosen(root, "model", partial(entries.read_model, allow_code=allow_code)),
        image_sets=_chosen(root, "image_set", entries.read_image_set),
        perturbations=_chosen(root, "perturbation", entries.read_perturbation, at_least=0),
        targets=_chosen(root, "target", entries.read_target, at_least=0),
        techniques=_chosen(root, "technique", entries.read_technique, at_least=0),
        metrics=_chosen(root, "metric", entries.read_metric, at_least=0),
        contrasts=_chosen(root, "contrast", entries.read_contrast, at_least=0),
        checks=_chosen(root, "check", entries.read_check, at_least=0),
        agreements=_chosen(root, "agreement", entries.read_agreement, at_least=0),
        sanities=_chosen(root, "sanity", entries.read_sanity, at_least=0),
        left_out=(),
        gate=root.boolean("gate"),
        seed=root.integer("seed", minimum=0, maximum=MOST_SEED),
        device=root.text("device"),
        batch_size=root.integer("batch_size", minimum=1),
        determinism=root.choice("determinism", ("strict", "warn", "off")),
        untrained_twin=root.boolean("untrained_twin"),
        regions=root.boolean("regions"),
        preview=entries.read_preview(root),
        output_dir=shipped.resolve(root.text("output_dir")),
        store_dir=shipped.resolve(root.text("store_dir")),
        executor=work,
        plugins=plugins,
        report=report.choice("uses", REPORTS),
    )
    for section in (executor, report, root):
        section.close()
    return _about_what_is_chosen(spec)


def _chosen(
    root: Section, group: str, make: Callable[[str, Section], T], at_least: int = 1
) -> tuple[T, ...]:
    named, made_by = root.section(group, {}), _MADE_BY.get(group, "uses")
    if len(named.values) < at_least:
        raise AuditError(f"{group}: choose at least one, for example '{group}=[…]'")
    chosen = []
    for name in named.values:
        entry = named.section(name)
        if made_by not in entry.values:
            raise AuditError(
                f"{entry.path} is set but {name!r} is not chosen; add it to the list, "
                f"'{group}=[…,{name}]', or, of an entry of your own, set {entry.path}.{made_by}"
            )
        chosen.append(make(name, entry))
        entry.close()
    return tuple(chosen)


def group_options(group: str, config_dir: Path | None) -> list[str]:
    """Return the options of a group, the shipped ones and those of the user's own folder."""
    if not re.fullmatch(r"[\w-]+(/[\w-]+)*", group):
        return []
    return sorted({path.stem for path in _option_files(group, config_dir)})


def _option_files(group: str, config_dir: Path | None) -> list[Path]:
    folders = [shipped.locate("conf"), *([config_dir] if config_dir else [])]
    return [path for folder in folders for path in folder.glob(f"{group}/*.yaml")]


def check_choices(overrides: Iterable[str], config_dir: Path | None) -> None:
    """Refuse null as the choice of a group, of which Hydra would print a traceback."""
    for text in overrides:
        group, _, value = text.partition("=")
        if value == "null" and group_options(group, config_dir):
            raise AuditError(f"{group}: null is no option; none is chosen by '{group}=[]'")


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
            if depth == 0:  # also those of which nothing is chosen
                groups = sorted({path.parent.name for path in _option_files("*", config_dir)})
                known = [*dict.fromkeys([*known, *groups])]
            added = f"; what a config leaves out is added by +{key}=…" if depth > 1 else ""
            return f"{key}: {unknown(part, known, 'key')}{added}"
        section = section[part]
    return f"{key} cannot be set to this; what a config leaves out is added by +{key}.…=…"


def settings_of_hydra(overrides: Iterable[str], config_dir: Path | None) -> dict[str, Any]:
    """Return how Hydra itself would be set up, but for what tells one call from another."""
    overrides = [*overrides]
    whole = _compose(overrides, config_dir, with_hydra=True)
    settings: Any = OmegaConf.to_container(whole.hydra)
    for name in ("runtime", "searchpath"):
        del settings[name]
    del settings["job"]["override_dirname"]
    # Hydra adds to those that a file holds, and the jobs of a multirun take them all.
    said = {*overrides, *_searchpath(config_dir)}
    settings["overrides"] = [
        text for texts in settings["overrides"].values() for text in texts if text not in said
    ]
    return {**settings}


def _compose(
    overrides: Iterable[str], config_dir: Path | None, *, with_hydra: bool = False
) -> DictConfig:
    with initialize_config_dir(str(shipped.locate("conf")), version_base="1.3"):
        overrides = [*overrides, *_searchpath(config_dir)]
        with _steady() if with_hydra else nullcontext():
            return compose("audit", overrides, return_hydra_config=with_hydra)


@contextmanager
def _steady() -> Iterator[None]:
    """Refuse choices of configs that may be others when Hydra composes once more, and acts on it.

    A file's list of defaults may choose by the second; which files are composed was checked then.
    """

    def refuse(*_arguments: str) -> NoReturn:
        raise ValueError  # of which Hydra makes an error about the choice

    for name in _UNSTEADY:
        OmegaConf.register_new_resolver(name, refuse, replace=True)
    try:
        yield
    finally:
        setup_globals()
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _searchpath(config_dir: Path | None) -> list[str]:
    """Return the override by which configs are found in the user's own folder, too."""
    place = str(config_dir.absolute()).replace("'", r"\'") if config_dir else ""
    return [f"hydra.searchpath=['file://{place}']"] if place else []


def _about_what_is_chosen(spec: AuditSpec) -> AuditSpec:
    """Leave out, and note, contrasts and checks about image sets that are not chosen."""
    image_sets = {image_set.name for image_set in spec.image_sets}
    if spec.perturbations:
        derived = set(map(perturbed_name, image_sets))
        for name in sorted(derived & image_sets):
            raise AuditError(
                f"image_set.{name}: another image set is called so under perturbations; rename it, "
                "or choose no perturbation: 'perturbation=[]'"
            )
        image_sets |= derived
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
        _check_levels(check, kept[check.contrast])
    if spec.gate and not checks:
        raise AuditError("gate: true, but there is no check that could fail; add 'check=[…]'")
    left_out = tuple(
        f"{kind} {one.name}: it is about {contrasts[contrast].image_set}, which is not chosen"
        for kind, named in (("contrast", spec.contrasts), ("check", spec.checks))
        for one in named
        if (contrast := getattr(one, "contrast", one.name)) not in kept
    )
    agreements = tuple(_named(one, spec, contrasts) for one in spec.agreements)
    return replace(
        spec,
        contrasts=tuple(kept.values()),
        checks=checks,
        agreements=tuple(one for one in agreements if not one.contrast or one.contrast in kept),
        sanities=tuple(
            replace(one, techniques=_meant(one.techniques, spec, f"sanity.{one.name}"))
            for one in spec.sanities
        ),
        untrained_twin=spec.untrained_twin or _asks_for_twin(checks, kept.values()),
        left_out=left_out,
    )


def _asks_for_twin(checks: Iterable[CheckSpec], contrasts: Iterable[ContrastSpec]) -> bool:
    beaten = [required.references for check in checks for required in check.requirements]
    return any(UNTRAINED_TWIN in names for names in (*beaten, *(c.net_of for c in contrasts)))


def _named(
    agreement: AgreementSpec, spec: AuditSpec, contrasts: Mapping[str, ContrastSpec]
) -> AgreementSpec:
    """Refuse what does not exist, and name the techniques that an agreement means."""
    where = f"agreement.{agreement.name}"
    if agreement.contrast and agreement.contrast not in contrasts:
        raise AuditError(f"{where}.contrast: {unknown(agreement.contrast, contrasts)}")
    factor = contrasts[agreement.contrast].factor if agreement.contrast else ""
    if factor in COMPARED:
        raise AuditError(
            f"{where}.contrast: {agreement.contrast!r} compares {factor}s, not levels of a factor; "
            f"choose 'agreement=[{factor}s]'"
        )
    return replace(agreement, techniques=_meant(agreement.techniques, spec, where))


def _meant(named: tuple[str, ...], spec: AuditSpec, where: str) -> tuple[str, ...]:
    """Refuse what gives no heatmaps here; none named stands for all that see the network."""
    heatmaps = {t.name: TECHNIQUES[t.uses] for t in spec.techniques}
    heatmaps = {name: used for name, used in heatmaps.items() if used.gives == "heatmap"}
    for name in named:
        if name not in heatmaps:
            raise AuditError(f"{where}.technique: {unknown(name, heatmaps)}")
    return named or tuple(name for name, used in heatmaps.items() if not used.sees_no_network)


def _check_names(check: CheckSpec, spec: AuditSpec) -> None:
    """Refuse what does not exist; what exists and is not chosen is for the judging to say."""
    uses = {**{name: name for name in OVERLAP}, **_shipped_metrics()}
    uses |= {metric.name: metric.uses for metric in spec.metrics}
    overlap = {name: OVERLAP[used].bounds for name, used in uses.items() if used in OVERLAP}
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
            if name not in (*techniques, *IN_ROW):
                allowed = sorted((*techniques, *IN_ROW))
                raise AuditError(f"{where}.require.beats: {unknown(name, allowed)}")
        if check.metric in BEHAVIOUR and requirement.statistic in ("lift", "beats"):
            raise AuditError(
                f"{where}.require.{requirement.statistic}: {check.metric!r} is about answers, "
                "which have no chance level and no references; allowed are level and difference"
            )
        _check_bound(requirement, known[check.metric], f"{where}.require")


def _shipped_metrics() -> dict[str, str]:
    """Return the entries that can be chosen as metrics, and what each of them uses."""
    files = map(OmegaConf.load, _option_files("metric", None))
    named = (pair for file in files for pair in file.items())
    return {str(name): entry.uses for name, entry in named if "uses" in entry}


def _check_levels(check: CheckSpec, contrast: ContrastSpec) -> None:
    """Refuse to judge at levels that the contrast does not compare, or a difference of one."""
    where = f"check.{check.name}"
    for level in check.at:
        if level not in contrast.levels:
            raise AuditError(f"{where}.at: {unknown(level, contrast.levels, 'level')}")
    if check.at and any(required.statistic == "difference" for required in check.requirements):
        raise AuditError(
            f"{where}.require.difference: needs both levels, and at names {check.at[0]}"
        )


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
