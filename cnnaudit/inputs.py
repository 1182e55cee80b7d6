"""What a run was given: a digest of each picture, its masks and its truth, kept with its results.

Two runs are compared image by image, so it must be known that the images are the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from cnnaudit.plan import item_fields
from cnnaudit.store import canonical_json, digest_bytes
from cnnaudit.types import INPUTS, ImageSet


def inputs_table(image_sets: Iterable[ImageSet]) -> pd.DataFrame:
    """Return a row of digests for each item; a perturbation is part of its image and masks."""
    rows = []
    for image_set in image_sets:
        for item in image_set.items:
            fields = item_fields(image_set, item)
            perturbed = fields.get("perturbed")
            parts = ([fields["image"], perturbed], [fields["regions"], perturbed], fields["truth"])
            digests = (digest_bytes(canonical_json(part).encode()) for part in parts)
            rows.append((image_set.spec.name, item.id, *digests))
    return pd.DataFrame(rows, columns=["image_set", "item", *INPUTS])
