"""An image set under perturbations: its items and, after them, each one perturbed.

The pictures are changed when they are read, here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from PIL import Image

from cnnaudit.image_sets.files import read_image, read_region
from cnnaudit.image_sets.perturbations import SEVERITIES, perturb_image, perturb_mask
from cnnaudit.specs import GridSpec, PerturbationSpec
from cnnaudit.store import digest_json
from cnnaudit.types import CLEAN, PERTURBATION, SEVERITY, AuditError, ImageSet, Item, Perturbed


def read_picture(item: Item) -> Image.Image:
    """Return the picture that an item stands for, 8-bit RGB at its own resolution."""
    image, done = read_image(item.image.path), item.perturbed
    return perturb_image(image, done.uses, done.severity, done.seed) if done else image


def read_mask_of(item: Item, region: str) -> Image.Image:
    """Return the mask of a region as it lies in `read_picture`, 8 bits, 0 outside."""
    mask, done = read_region(item.regions[region]), item.perturbed
    return perturb_mask(mask, done.uses, done.severity, done.seed) if done else mask


def with_perturbed(
    image_sets: Iterable[ImageSet], perturbations: Sequence[PerturbationSpec], seed: int
) -> Iterator[ImageSet]:
    """Yield each image set and, if anything is to be done to it, itself under perturbations.

    The first stays as it is, so that nothing that is said about it pools over perturbations.
    """
    for image_set in image_sets:
        yield image_set
        if perturbations:
            yield perturbed(image_set, perturbations, seed)


def perturbed(
    image_set: ImageSet, perturbations: Sequence[PerturbationSpec], seed: int
) -> ImageSet:
    """Return an image set with every item also under every perturbation at every severity.

    Two factors tell them apart, `perturbation` and `severity`: "none" and "0" as it is.
    """
    _check_names(image_set)
    clean = _levelled(image_set.items, CLEAN, 0)
    items = (
        replace(
            item,
            id=f"{item.id}@{one.name}-{severity}",
            perturbed=Perturbed(one.uses, severity, _seed(item, one.uses, severity, seed), item.id),
        )
        for severity in SEVERITIES
        for one in perturbations
        if severity in one.severities
        for item in _levelled(image_set.items, one.name, severity)
    )
    spec = replace(
        image_set.spec,
        name=perturbed_name(image_set.spec.name),
        exemplars=min(1, image_set.spec.exemplars),
        grids=(GridSpec(PERTURBATION, SEVERITY, ()),),
    )
    factors = (*image_set.factors, PERTURBATION, SEVERITY)
    return ImageSet(spec, (*clean, *items), factors)


def perturbed_name(image_set: str) -> str:
    """Return what an image set is called under perturbations."""
    return f"{image_set}_perturbed"


def _levelled(items: Iterable[Item], perturbation: str, severity: int) -> Iterator[Item]:
    """Yield items at levels of the two factors; those that shared their factors still do."""
    levels = {PERTURBATION: perturbation, SEVERITY: str(severity)}
    shared: dict[int, Mapping[str, str]] = {}
    for item in items:
        factors = shared.setdefault(id(item.factors), {**item.factors, **levels})
        yield replace(item, factors=factors)


def _seed(item: Item, uses: str, severity: int, seed: int) -> int:
    """Return the seed of what is drawn for a picture: the same in any order, and in any set."""
    about = [item.image.digest, uses, severity, seed]
    return int(digest_json(about)[:12], 16)


def _check_names(image_set: ImageSet) -> None:
    where = f"image_set.{image_set.spec.name}"
    for name in (PERTURBATION, SEVERITY):
        if name in image_set.factors:
            raise AuditError(
                f"{where}: its factor {name!r} has the name of one that perturbations add; "
                "rename that column, or choose no perturbation: 'perturbation=[]'"
            )
    if marked := [item.id for item in image_set.items if "@" in item.id]:
        raise AuditError(f"{where}: {marked[0]!r}: with perturbations an id cannot hold '@'")
