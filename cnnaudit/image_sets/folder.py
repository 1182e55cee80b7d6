"""A folder of pictures without a manifest; masks, where there are any, in a folder beside them."""

from __future__ import annotations

from pathlib import Path

from cnnaudit.image_sets.files import inside
from cnnaudit.types import AuditError, Item

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def read_folder(
    root: Path, where: str, *, masks: str = "masks"
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Return an item per picture below a folder, its mask ``masks/<same path, same stem>.png``."""
    pictures = [path for path in _pictures(root) if not path.is_relative_to(root / masks)]
    found = {path.relative_to(root / masks) for path in (root / masks).rglob("*.png")}
    items = []
    for path in pictures:
        relative = path.relative_to(root)
        mask = relative.with_suffix(".png")
        regions = {}
        if mask in found:
            regions["mask"] = inside(root, str(Path(masks) / mask), where)
        picture = inside(root, str(relative), where)
        items.append(Item(relative.as_posix(), picture, regions, None, {}))
    lonely = found - {path.relative_to(root).with_suffix(".png") for path in pictures}
    if lonely:
        raise AuditError(f"{where}: the mask {root / masks / min(lonely)} belongs to no picture")
    return tuple(items), ()


def _pictures(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
