"""What a run was given: a digest of each picture, its masks and its truth, kept with its results.

Two runs are compared image by image, so it must be known that the images are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cnnaudit.plan import item_fields
from cnnaudit.store import digest_json, drafted
from cnnaudit.types import INPUTS, ImageSet, Item

_COLUMNS = pa.schema([(name, pa.string()) for name in ("image_set", "item", *INPUTS)])
_AT_ONCE = 10_000  # items in memory as rows


def write_inputs(path: Path, image_sets: Iterable[ImageSet]) -> None:
    """Write a row of digests for each item; a perturbation is part of its image and masks.

    Raises AuditError if the file cannot be written.
    """
    with drafted(path) as draft, pq.ParquetWriter(draft, _COLUMNS) as writer:
        for image_set in image_sets:
            for start in range(0, len(image_set.items), _AT_ONCE):
                items = image_set.items[start : start + _AT_ONCE]
                rows = [(image_set.spec.name, item.id, *_digests(item)) for item in items]
                writer.write_table(pa.table([*zip(*rows, strict=True)], _COLUMNS))


def _digests(item: Item) -> list[str]:
    fields = item_fields(item)
    perturbed = fields.get("perturbed")
    parts = ([fields["image"], perturbed], [fields["regions"], perturbed], fields["truth"])
    return [digest_json(part) for part in parts]
