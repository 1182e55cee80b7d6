"""Items → batches of preprocessed pictures, decoded ahead; a bad file fails only its own item."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from math import ceil
from typing import TYPE_CHECKING

import cv2
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnnaudit.image_sets.files import read_truth
from cnnaudit.image_sets.perturbed import read_mask_of, read_picture
from cnnaudit.types import AuditError, Batch, File, Item

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Prepare = Callable[[Image.Image], Tensor]

log = logging.getLogger(__name__)


def batches(
    items: Sequence[Item], prepare_image: Prepare, prepare_mask: Prepare, size: int, workers: int
) -> Iterator[Batch]:
    """Yield batches of at most `size` items, read in their order by `workers` processes (0: here).

    A batch's `items` are the ones that could be read; the others are in its `failures`.
    """
    for found in Reader(prepare_image, prepare_mask, size, workers).read([items]):
        yield from found


class Reader:
    """Reads the pictures of one model in batches, and keeps the processes that it does it with."""

    def __init__(
        self,
        prepare_image: Prepare,
        prepare_mask: Prepare,
        size: int,
        workers: int,
        *,
        pinned: bool = False,
    ) -> None:
        """`pinned` images can be copied to a GPU while it computes."""
        self._parts = _Parts(size)
        self._loader = DataLoader(
            _Reading(prepare_image, prepare_mask),
            batch_sampler=self._parts,  # type: ignore[arg-type]  # any iterable will do
            num_workers=workers,
            collate_fn=_pack,
            pin_memory=pinned,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # or each pass would draw from the global one
            persistent_workers=workers > 0,
        )

    def read(self, chunks: Sequence[Sequence[Item]]) -> Iterator[Iterator[Batch]]:
        """Yield the batches of each chunk, to be taken before the next chunk's.

        They are read ahead of the chunk that is asked for. Raises AuditError if a process dies.
        """
        self._parts.chunks = chunks
        stream = _unpacked(iter(self._loader))
        for chunk in chunks:
            yield islice(stream, self._parts.count(chunk))


class _Parts:
    """What each batch is to hold: no batch has items of two chunks.

    A chunk's batches are as even as can be, not full ones and a rest: torch's library compiles and
    keeps its convolutions for every size of a batch that it meets.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.chunks: Sequence[Sequence[Item]] = ()

    def count(self, chunk: Sequence[Item]) -> int:
        return ceil(len(chunk) / self.size)

    def __iter__(self) -> Iterator[Sequence[Item]]:
        for chunk in self.chunks:
            count = self.count(chunk)
            ends = [len(chunk) * part // count for part in range(count + 1)]
            yield from (chunk[start:end] for start, end in pairwise(ends))


def _unpacked(stream: Iterator[_Packed]) -> Iterator[Batch]:
    while True:
        try:
            packed = next(stream)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise AuditError(
                f"executor.workers: a process that decodes pictures ended ({error}); the same "
                "command continues, and with executor.workers=0 this process decodes them itself"
            ) from error
        yield packed.unpacked()


def _start_worker(_number: int) -> None:
    # Ctrl-C reaches all processes, and the one that computes has a batch to finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)  # the threads of the process that this one was forked from are not here


@dataclass(frozen=True)
class _Sample:
    item: Item
    image: Tensor | None
    masks: Mapping[str, Tensor]
    vanished: frozenset[str]
    truth: str | NDArray[np.float64] | None
    failure: str


class _Reading(Dataset[_Sample]):
    """Reads the item that it is asked for: it holds none, so a process gets only its own."""

    def __init__(self, image: Prepare, mask: Prepare) -> None:
        self.prepare_image, self.prepare_mask = image, mask

    def __getitem__(self, item: Item) -> _Sample:
        try:
            return self._read(item)
        except AuditError as error:
            failure = str(error)
        except Exception as error:  # whatever a decoder raises concerns its own picture only
            log.exception("item %r could not be read", item.id)
            failure = f"{type(error).__name__}: {error}"
        return _Sample(item, None, {}, frozenset(), None, failure)

    def _read(self, item: Item) -> _Sample:
        image = self.prepare_image(read_picture(item))
        read = {name: read_mask_of(item, name) for name in item.regions}
        masks = {name: self.prepare_mask(mask) for name, mask in read.items()}
        vanished = frozenset(n for n in read if read[n].getbbox() and not masks[n].any())
        declared = item.truth
        truth = read_truth(declared.path).flatten() if isinstance(declared, File) else declared
        return _Sample(item, image, masks, vanished, truth, "")


@dataclass(frozen=True)
class _Packed:
    """A batch on its way between processes: in few tensors, since each takes a file descriptor."""

    items: tuple[Item, ...]
    images: Tensor  # (B, C, H, W)
    masks: Mapping[str, Tensor]  # region → (n, H, W) of the items that have it, in their order
    truths: Mapping[str, str | NDArray[np.float64]]
    failures: Mapping[str, str]
    vanished: frozenset[tuple[str, str]]

    def pin_memory(self) -> _Packed:
        return replace(self, images=self.images.pin_memory())

    def unpacked(self) -> Batch:
        of_region = {
            name: [item.id for item in self.items if name in item.regions] for name in self.masks
        }
        return Batch(
            items=self.items,
            images=self.images,
            masks={
                name: dict(zip(ids, self.masks[name], strict=True))
                for name, ids in of_region.items()
            },
            truths={
                item: truth if isinstance(truth, str) else torch.from_numpy(truth)
                for item, truth in self.truths.items()
            },
            failures=self.failures,
            vanished=self.vanished,
        )


def _pack(samples: Sequence[_Sample]) -> _Packed:
    good = [sample for sample in samples if sample.image is not None]
    regions = dict.fromkeys(name for sample in good for name in sample.masks)
    return _Packed(
        items=tuple(sample.item for sample in good),
        images=torch.stack([s.image for s in good if s.image is not None])
        if good
        else torch.empty(0),
        masks={
            name: torch.stack([s.masks[name] for s in good if name in s.masks]) for name in regions
        },
        truths={s.item.id: s.truth for s in good if s.truth is not None},
        failures={s.item.id: s.failure for s in samples if s.failure},
        vanished=frozenset((name, s.item.id) for s in good for name in s.vanished),
    )
