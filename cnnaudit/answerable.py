"""Whether an image set can answer what contrasts and checks ask, checked before work begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cnnaudit.sections import near_miss, unknown
from cnnaudit.specs import COMPARED, CheckSpec, ContrastSpec
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import IN_ROW, AuditError, ImageSet


def check_contrast(
    contrast: ContrastSpec, image_set: ImageSet, names: Mapping[str, Sequence[str]]
) -> None:
    """Raise AuditError, saying why, if an audit cannot answer a contrast.

    `names` has the audit's own models, techniques and targets, which can be compared like the
    levels of a factor, image by image.
    """
    where, compared = f"contrast.{contrast.name}", contrast.factor in COMPARED
    conditions = image_set.conditions
    factors = (*conditions, *(COMPARED if contrast.factor not in image_set.factors else ()))
    for key, asked, known in (
        ("factor", (contrast.factor,), factors),
        ("blocks", contrast.blocks, image_set.factors),
        ("within", contrast.within, conditions),
    ):
        for name in asked:
            if name not in known:
                raise AuditError(f"{where}.{key}: {_none_of(image_set, name, known)}")
    levels = names[contrast.factor] if compared else image_set.levels(contrast.factor)
    for level in contrast.levels:
        if level not in levels:
            raise AuditError(
                f"{where}.levels: {level!r} is no level of {contrast.factor!r}."
                f"{near_miss(level, levels)} Allowed are {', '.join(levels)}"
            )
    references = {*TECHNIQUES, *names["technique"], *IN_ROW}
    for name in contrast.net_of:  # one that is not chosen is not there to be taken away
        if name not in references:
            raise AuditError(f"{where}.net_of: {unknown(name, sorted(references), 'reference')}")
    if compared:
        return  # the two sides of a pair are one image
    if image_set.spec.unit not in (None, *contrast.blocks):
        raise AuditError(
            f"{where}.blocks: {image_set.spec.unit!r}, the unit of {image_set.spec.name}, must be "
            "one of them; pairs across units are not paired"
        )
    if stray := [name for name in contrast.within if name not in contrast.blocks]:
        raise AuditError(f"{where}.within: {stray[0]!r} must be one of the blocks, or pairs mix it")
    _check_balance(contrast, image_set, where)


def check_levels(check: CheckSpec, contrast: ContrastSpec, image_set: ImageSet) -> None:
    """Raise AuditError if a check asks for the levels of what is no factor of an image set."""
    for name in check.each:
        if name not in image_set.conditions:
            said = _none_of(image_set, name, image_set.conditions)
            raise AuditError(f"check.{check.name}.each: {said}")
        further = [one for one in image_set.levels(name) if one not in contrast.levels]
        if name == contrast.factor and further and not check.at:
            raise AuditError(
                f"check.{check.name}.each: {name!r} has further levels than the contrast "
                f"{contrast.name} compares, such as {further[0]!r}, which would not be judged; "
                "declare a contrast for each, or leave it out of each"
            )
        compares = any(required.statistic == "difference" for required in check.requirements)
        stays_equal = contrast.factor in COMPARED or name in (contrast.factor, *contrast.blocks)
        if compares and not stays_equal:
            raise AuditError(
                f"check.{check.name}.each: {name!r} is none of the blocks of the contrast "
                f"{contrast.name}, so the two sides of a difference may differ in it"
            )


def _none_of(image_set: ImageSet, name: str, known: Sequence[str]) -> str:
    """Say why a name is none of those that are known here: by its levels nothing is told apart."""
    is_unit = name == image_set.spec.unit
    about = "the unit of independence" if is_unit else "no factor"
    near = "" if is_unit else near_miss(name, known)  # it is there, and was meant
    listed = ", ".join(known) or "none"
    return f"{name!r} is {about} of {image_set.spec.name}.{near} Allowed are {listed}"


def _check_balance(contrast: ContrastSpec, image_set: ImageSet, where: str) -> None:
    """Refuse blocks in which one of the two levels is missing, naming them."""
    first, second = (
        {
            # Pairs are within a unit, which without a declared one is each picture by itself.
            (image_set.unit_of(item), *(item.factors.get(name, "") for name in contrast.blocks))
            for item in image_set.items
            if item.factors.get(contrast.factor) == level
        }
        for level in contrast.levels
    )
    if not first & second:
        name, unit = image_set.spec.name, image_set.spec.unit
        hint = f"; it has no unit: name the factor that pairs share, image_set.{name}.unit=…"
        raise AuditError(
            f"{where}: {name} has no pair of {contrast.levels[0]!r} and {contrast.levels[1]!r} "
            f"with equal {', '.join(contrast.blocks)}{hint * (unit is None)}"
        )
    if lonely := sorted(first ^ second):
        shown = "; ".join(", ".join(block) for _, *block in lonely[:5])
        raise AuditError(
            f"{where}: unbalanced, blocks that lack one of the two levels: {len(lonely)} ({shown})"
            "; add their other pictures, or take these out of the manifest"
        )
