"""Image sets: a manifest or a folder → items with their masks, truths and factors → batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from cnnaudit.image_sets import folder, manifest
from cnnaudit.image_sets.files import check_files
from cnnaudit.sections import unknown
from cnnaudit.shipped import from_here
from cnnaudit.specs import FACETS, GridSpec, ImageSetSpec
from cnnaudit.types import AuditError, ImageSet, Item

MOST_LEVELS = 100  # of a factor by whose levels means are told apart

Reader = Callable[..., tuple[tuple[Item, ...], tuple[str, ...]]]
Check = Callable[[Sequence[Item], str], tuple[str, ...]]  # as `check_files`

READERS: Mapping[str, Reader] = {
    "manifest": manifest.read_manifest,
    "folder": folder.read_folder,
}


def load_image_set(spec: ImageSetSpec, check: Check = check_files) -> ImageSet:
    """Read what an image set declares, and check and digest every file that it names.

    Raises AuditError naming the file or column, what was found and what is allowed; a picture that
    cannot be read is noted, unless none can.
    """
    where = f"image_set.{spec.name}"
    folder = spec.root.parent if "{" in spec.root.name else spec.root  # a choice of its pictures
    if not (folder.is_dir() or spec.root.is_dir()):
        raise AuditError(f"{where}.root: there is no folder {folder}{from_here(folder)}")
    items, factors = READERS[spec.uses](spec.root, where, **spec.parameters)
    if not items:
        raise AuditError(f"{where}: {spec.root} holds no picture")
    _check_factors(spec, factors, where)
    unreadable = check(items, where)
    image_set = ImageSet(spec, items, factors, unreadable)
    _check_levels(image_set, where)
    return image_set


def not_readable(image_sets: Iterable[ImageSet]) -> Iterator[str]:
    """Say how many pictures will fail as they cannot be read, and which, for example."""
    for one in image_sets:
        if one.unreadable:
            yield (
                f"{len(one.unreadable)} of {len(one.items)} pictures cannot be read and will fail, "
                f"such as {one.unreadable[0]}"
            )


def with_few_levels(image_set: ImageSet) -> list[str]:
    """Return the conditions of MOST_LEVELS levels or less: by one with more, images are alone."""
    return [one for one in image_set.conditions if len(image_set.levels(one)) <= MOST_LEVELS]


def told_apart(image_sets: Sequence[ImageSet]) -> list[str]:
    """Return the factors by whose levels means are told apart: those with few, or in a grid."""
    grids = [grid for one in image_sets for grid in one.spec.grids]
    shown = {side for grid in grids for side in (grid.rows, grid.cols)}
    many = {name for one in image_sets for name in {*one.conditions} - {*with_few_levels(one)}}
    named = dict.fromkeys(name for one in image_sets for name in one.conditions)
    return [name for name in named if name in shown or name not in many]


def not_told_apart(image_sets: Sequence[ImageSet]) -> Iterator[str]:
    """Say of which factors there are no means, and why."""
    apart = told_apart(image_sets)
    for one in image_sets:
        for name in one.conditions:
            if name not in apart:
                yield (
                    f"means by {name!r} of {one.spec.name}: it has {len(one.levels(name))} levels, "
                    f"and tables tell at most {MOST_LEVELS} apart, unless a grid names it; "
                    "rows.parquet has all"
                )


def _check_factors(spec: ImageSetSpec, factors: tuple[str, ...], where: str) -> None:
    conditions = tuple(name for name in factors if name != spec.unit)
    for number, grid in enumerate(spec.grids):
        _check_grid(grid, conditions, f"{where}.grids.{number}")
    named = {"unit": [spec.unit] if spec.unit else []}
    named |= {"words": list(spec.words), "places": list(spec.places)}
    for key, names in named.items():
        for name in names:
            if name not in factors:
                allowed = ", ".join(factors) or "none"
                raise AuditError(
                    f"{where}.{key}: {name!r} is no factor of this image set; "
                    f"its manifest has the factors: {allowed}"
                )


def _check_grid(grid: GridSpec, factors: tuple[str, ...], where: str) -> None:
    """Refuse a side that is neither factor nor facet, and two that hold the same pictures."""
    for side, name in (("rows", grid.rows), ("cols", grid.cols)):
        if name not in (*factors, *FACETS):
            raise AuditError(f"{where}.{side}: {unknown(name, (*factors, *FACETS), 'side')}")
    if grid.rows == grid.cols:
        raise AuditError(f"{where}: rows and cols are both {grid.rows!r}; cross two things")
    if "image" in (grid.rows, grid.cols) and {grid.rows, grid.cols} & set(factors):
        raise AuditError(
            f"{where}: {grid.rows!r} × {grid.cols!r} has one place for each image; "
            "cross the images with model, target or technique, or a factor with another"
        )


def _check_levels(image_set: ImageSet, where: str) -> None:
    for number, grid in enumerate(image_set.spec.grids):
        for level in grid.levels:
            if level not in image_set.levels(grid.rows):
                allowed = ", ".join(image_set.levels(grid.rows)) or "none"
                raise AuditError(
                    f"{where}.grids.{number}.levels: {level!r} is no level of {grid.rows!r}; "
                    f"its manifest has: {allowed}"
                )
