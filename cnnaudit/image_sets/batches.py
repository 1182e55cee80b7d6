"""Items → batches of preprocessed pictures, decoded ahead; a bad file fails only its own item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnnaudit.image_sets.files import read_truth
from cnnaudit.image_sets.perturbed import read_mask_of, read_picture
from cnnaudit.types import AuditError, Batch, Item

Prepare = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class _Sample:
    item: Item
    image: Tensor | None
    masks: dict[str, Tensor]
    vanished: frozenset[str]
    truth: Any
    failure: str


class _Samples(Dataset[_Sample]):
    def __init__(self, items: Sequence[Item], image: Prepare, mask: Prepare) -> None:
        self.items, self.prepare_image, self.prepare_mask = items, image, mask

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> _Sample:
        item = self.items[index]
        try:
            image = self.prepare_image(read_picture(item))
            read = {name: read_mask_of(item, name) for name in item.regions}
            masks = {name: self.prepare_mask(mask) for name, mask in read.items()}
            vanished = frozenset(n for n in read if read[n].getbbox() and not masks[n].any())
            return _Sample(item, image, masks, vanished, _truth(item), "")
        except AuditError as error:
            return _Sample(item, None, {}, frozenset(), None, str(error))


def batches(
    items: Sequence[Item], prepare_image: Prepare, prepare_mask: Prepare, size: int, workers: int
) -> Iterator[Batch]:
    """Yield batches of at most `size` items, read in their order by `workers` processes (0: here).

    A batch's `items` are the ones that could be read; the others are in its `failures`.
    """
    loader = DataLoader(
        _Samples(items, prepare_image, prepare_mask),
        batch_size=size,
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator(),  # or each pass would draw from the global one
    )
    yield from loader


def _truth(item: Item) -> Any:
    if isinstance(item.truth, Path):
        return torch.from_numpy(read_truth(item.truth)).flatten()
    return item.truth


def _collate(samples: list[_Sample]) -> Batch:
    good = [sample for sample in samples if sample.image is not None]
    regions = dict.fromkeys(name for sample in good for name in sample.masks)
    return Batch(
        items=tuple(sample.item for sample in good),
        images=torch.stack([s.image for s in good if s.image is not None])
        if good
        else torch.empty(0),
        masks={
            name: {s.item.id: s.masks[name] for s in good if name in s.masks} for name in regions
        },
        truths={s.item.id: s.truth for s in good if s.truth is not None},
        failures={s.item.id: s.failure for s in samples if s.failure},
        vanished=frozenset((name, s.item.id) for s in good for name in s.vanished),
    )
