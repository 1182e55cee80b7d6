"""A folder of pictures without a manifest; masks, where there are any, in a folder beside them."""

from __future__ import annotations

import re
from pathlib import Path

from cnnaudit.image_sets.files import file_inside
from cnnaudit.types import AuditError, Item

MASKS = "masks"  # where they lie unless a config says otherwise; there need not be any
# Of pictures, also those that Pillow may not read: they fail by name, and are not passed over.
SUFFIXES = (
    *(".avif", ".bmp", ".dcm", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)


def read_folder(
    root: Path, where: str, *, masks: str = MASKS
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Return an item per picture below a folder, its mask ``masks/<same path, same stem>.png``.

    The last part of `root` may choose among the pictures, as in ``photos/{cat,dog}.png``.
    """
    root, chosen = _chosen(root, where)
    if masks != MASKS and not (root / masks).is_dir():
        raise AuditError(f"{where}.masks: there is no folder {root / masks}")
    pictures = [path for path in _pictures(root) if not path.is_relative_to(root / masks)]
    found = {}
    for path in _pictures(root / masks):
        if path.suffix.lower() != ".png":
            raise AuditError(f"{where}: {path} is no mask; masks are PNG files")
        mask = path.relative_to(root / masks)
        found[mask.with_suffix("")] = mask
    items = []
    for path in chosen or pictures:
        relative = path.relative_to(root)
        _check_name(relative, where)
        regions = {}
        if relative.with_suffix("") in found:
            mask = found[relative.with_suffix("")]
            regions["mask"] = file_inside(root, str(Path(masks) / mask), where)
        picture = file_inside(root, str(relative), where)
        items.append(Item(relative.as_posix(), picture, regions, None, {}))
    lonely = found.keys() - {path.relative_to(root).with_suffix("") for path in pictures}
    if lonely:
        mask = root / masks / found[min(lonely)]
        raise AuditError(f"{where}: the mask {mask} belongs to no picture")
    return tuple(items), ()


def _check_name(picture: Path, where: str) -> None:
    """Refuse a name that is no text: it would be the picture's id, in tables and on the page."""
    try:
        str(picture).encode()
    except UnicodeEncodeError as error:
        name = ascii(str(picture))
        raise AuditError(f"{where}: the file name {name} is not in UTF-8; rename it") from error


def _chosen(root: Path, where: str) -> tuple[Path, list[Path]]:
    """Return the folder, and the files in it that a root with braces names."""
    braces = re.fullmatch(r"(.*)\{(.+)\}(.*)", root.name)
    if braces is None or root.is_dir():
        return root, []
    begin, names, end = braces.groups()
    named = dict.fromkeys(name.strip() for name in names.split(","))
    files = [root.with_name(f"{begin}{name}{end}") for name in named]
    if absent := [file for file in files if not file.is_file()]:
        raise AuditError(f"{where}.root: there is no picture {absent[0]}")
    return root.parent, files


def _pictures(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not path.is_dir()
    )
