"""Whether the files of an image set are what they should be: found out once, then in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import PIL

from cnnaudit.image_sets.files import check_files
from cnnaudit.store import Store, cell_key, digest_list
from cnnaudit.types import File, Item, Region

VERSION = 1  # raise it when checking would find something else


def checked_files(items: Sequence[Item], where: str, store: Store) -> tuple[str, ...]:
    """Return what `check_files` does, without decoding files that the store knows to be good.

    Of a picture that cannot be read the store knows nothing: it may have been the disk.
    """
    fields = {
        "kind": "checked_files",
        "version": VERSION,
        "pillow": PIL.__version__,
        "items": digest_list(map(_contents, items)),
    }
    key = cell_key(fields)
    if store.has(key):
        return ()
    unreadable = check_files(items, where)
    if not unreadable:
        store.write(key, {}, fields)
    return unreadable


def _contents(item: Item) -> list[Any]:
    """Return all of an item that a check of it depends on."""
    truth = item.truth.digest if isinstance(item.truth, File) else None
    return [item.image.digest, [*map(_content, item.regions.values())], truth]


def _content(region: Region) -> Any:
    return region.digest if isinstance(region, File) else asdict(region)
