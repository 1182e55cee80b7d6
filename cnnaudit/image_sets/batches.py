"""Items → batches of preprocessed pictures, decoded ahead; a bad file fails only its own item."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from math import ceil
from multiprocessing.reduction import ForkingPickler
from threading import current_thread, main_thread
from typing import TYPE_CHECKING

import cv2
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from cnnaudit.image_sets.files import read_truth, told
from cnnaudit.image_sets.perturbed import read_mask_of, read_picture
from cnnaudit.store import digest_file
from cnnaudit.types import AuditError, Batch, File, Item, Masks, Outline, ProcessDied

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Prepare = Callable[[Image.Image], Tensor]
Pair = tuple[Item, Item | None]  # an item, and its partner for the swap
Paired = tuple[Sequence[Item], Sequence[Item | None]]  # items, and the partner of each

log = logging.getLogger(__name__)


def batches(
    items: Sequence[Item], prepare_image: Prepare, prepare_mask: Prepare, size: int
) -> Iterator[Batch]:
    """Yield batches of at most `size` items, read here and in their order.

    A batch's `items` are the ones that could be read; the others are in its `failures`.
    """
    reader = Reader(prepare_image, prepare_mask, size)
    for found in reader.read([(items, [None] * len(items))]):
        yield from found


class Reader:
    """Reads the pictures of one model in batches, and keeps the processes that it does it with."""

    def __init__(
        self,
        prepare_image: Prepare,
        prepare_mask: Prepare,
        size: int,
        workers: int = 0,
        *,
        swapped: frozenset[str] = frozenset(),
        pinned: bool = False,
    ) -> None:
        """Read with so many processes (0: here), of partners the regions `swapped`.

        `pinned` batches can be copied to a GPU while it computes.
        """
        self._parts = _Parts(size)
        self._load = partial(
            DataLoader,
            _Reading(prepare_image, prepare_mask, swapped),
            batch_sampler=self._parts,  # type: ignore[arg-type]  # any iterable will do
            collate_fn=_pack,
            pin_memory=pinned,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # or each pass would draw from the global one
        )
        self._loader = self._load(num_workers=workers, persistent_workers=workers > 0)

    def read(self, chunks: Sequence[Paired]) -> Iterator[Iterator[Batch]]:
        """Yield the batches of each chunk, to be taken before the next chunk's.

        They are read ahead of the chunk that is asked for. Raises ProcessDied when who reads dies.
        """
        self._parts.begin(chunks)
        stream = self._batches()
        for items, _ in chunks:
            yield islice(stream, self._parts.count(items))

    def _batches(self) -> Iterator[Batch]:
        taken = 0
        try:
            for batch in _alive(_begun(self._loader)):
                yield batch
                taken += 1
            return
        except OSError as error:  # it takes files and processes to have others read
            if not self._loader.num_workers:
                raise
            log.warning("no other process can read (%s): this one does, which is slower", error)
        except _NoRoom:
            log.warning(
                "no room in shared memory, for a temporary file or for an open one, to hand over "
                "what other processes read; this one reads from now on, which is slower. Give more "
                "(docker run --shm-size=2g --tmpfs /tmp), or use fewer processes, "
                "executor.workers=…, or smaller batches, batch_size=…"
            )
        self._loader = self._load(num_workers=0)  # after the error, which holds the other one
        self._parts.skip = taken
        yield from self._loader


class _NoRoom(Exception):
    """What was read cannot be handed over to another process."""


class _Parts:
    """What each batch is to hold: no batch has items of two chunks.

    A chunk's batches are as even as can be, not full ones and a rest: torch's library compiles and
    keeps its convolutions for every size of a batch that it meets.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.begin(())

    def begin(self, chunks: Sequence[Paired]) -> None:
        """Go through these chunks from now on, the first one first."""
        self.chunks, self.skip = chunks, 0

    def count(self, items: Sequence[Item]) -> int:
        return ceil(len(items) / self.size)

    def __iter__(self) -> Iterator[Sequence[Pair]]:
        return islice(self._all(), self.skip, None)

    def _all(self) -> Iterator[Sequence[Pair]]:
        for items, partners in self.chunks:
            count = self.count(items)
            ends = [len(items) * part // count for part in range(count + 1)]
            for start, end in pairwise(ends):
                yield [*zip(items[start:end], partners[start:end], strict=True)]


def _begun(loader: DataLoader[_Sample | _Failure]) -> Iterator[Batch | _Sent]:
    """Begin to read, and be told of a death when the next batch is asked for.

    torch would have a signal raise it in the middle of whatever this process is at just then.
    """
    before, stream = signal.getsignal(signal.SIGCHLD), iter(loader)
    if current_thread() is main_thread() and before is not None:  # None: not Python's to set
        signal.signal(signal.SIGCHLD, before)
    return stream


def _alive(stream: Iterator[Batch | _Sent]) -> Iterator[Batch]:
    while True:
        try:
            batch = next(stream)
            if isinstance(batch, _Sent):
                batch = batch.received()
        except StopIteration:
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            # The other two: it ended while what it had read was fetched through a connection.
            if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
                raise
            raise ProcessDied(f"a process that reads pictures ended ({error})") from error
        yield batch


def _start_worker(_number: int) -> None:
    # Ctrl-C and the end of a terminal reach all processes, and who computes has a batch to finish.
    for one in (signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    cv2.setNumThreads(0)  # the threads of the process that this one was forked from are not here


@dataclass(frozen=True)
class _Sample:
    """What was read of an item, (C, H, W) and (H, W)."""

    item: Item
    image: Tensor
    masks: Mapping[str, Tensor]  # by region
    swaps: Mapping[str, Tensor]
    vanished: frozenset[str]
    truth: str | NDArray[np.float64] | None


@dataclass(frozen=True)
class _Failure:
    item: Item
    reason: str


class _Reading(Dataset[_Sample | _Failure]):
    """Reads the item that it is asked for: it holds none, so a process gets only its own."""

    def __init__(self, image: Prepare, mask: Prepare, swapped: frozenset[str]) -> None:
        self.prepare_image, self.prepare_mask, self.swapped = image, mask, swapped

    def __getitem__(self, pair: Pair) -> _Sample | _Failure:
        item, partner = pair
        named = [one for one in pair if one]
        try:
            with unchanged(item.image, *item.regions.values(), item.truth):
                return self._read(item, partner)
        except AuditError as error:
            return _Failure(item, told(error, *named))
        except Exception as error:  # whatever a decoder raises concerns its own picture only
            log.exception("item %r could not be read", item.id)
            return _Failure(item, f"{type(error).__name__}: {told(error, *named)}")

    def _read(self, item: Item, partner: Item | None) -> _Sample:
        image = self.prepare_image(read_picture(item))
        read = {name: read_mask_of(item, name) for name in item.regions}
        masks = {name: self.prepare_mask(mask) for name, mask in read.items()}
        vanished = frozenset(n for n in read if read[n].getbbox() and not masks[n].any())
        swaps = self._masks_of_partner(partner) if partner else {}
        declared = item.truth
        truth = read_truth(declared.path).flatten() if isinstance(declared, File) else declared
        return _Sample(item, image, masks, swaps, vanished, truth)

    def _masks_of_partner(self, partner: Item) -> dict[str, Tensor]:
        names = [name for name in partner.regions if name in self.swapped]
        try:
            with unchanged(*(partner.regions[name] for name in names)):
                return {name: self.prepare_mask(read_mask_of(partner, name)) for name in names}
        except AuditError as error:
            raise AuditError(f"its partner for the swap, {partner.id!r}: {error}") from error


@contextmanager
def unchanged(*declared: File | Outline | str | None) -> Iterator[None]:
    """Read files inside; raise AuditError if one is not what it was when the audit was planned.

    Numbers of another picture would lie in the store as those of the one that was planned.
    """
    try:
        yield
    finally:  # not before: it may be replaced while it is read
        _check_unchanged(*declared)


def _check_unchanged(*declared: File | Outline | str | None) -> None:
    for file in declared:
        if isinstance(file, File):
            try:
                digest = digest_file(file.path)
            except OSError as error:
                raise AuditError(f"{file} cannot be read ({error.strerror})") from error
            if digest != file.digest:
                raise AuditError(f"{file} has changed since the audit was planned; run it again")


def _pack(samples: Sequence[_Sample | _Failure]) -> Batch | _Sent:
    """Unite samples in few tensors: between processes each takes a file descriptor."""
    good = [sample for sample in samples if isinstance(sample, _Sample)]
    batch = Batch(
        items=tuple(sample.item for sample in good),
        images=torch.stack([sample.image for sample in good]) if good else torch.empty(0),
        masks=_pack_masks([sample.masks for sample in good]),
        swaps=_pack_masks([sample.swaps for sample in good]),
        truths={s.item.id: s.truth for s in good if s.truth is not None},
        failures={s.item.id: s.reason for s in samples if isinstance(s, _Failure)},
        vanished=frozenset((name, s.item.id) for s in good for name in s.vanished),
    )
    return batch if get_worker_info() is None else _Sent(batch)


class _Sent:
    """A batch on its way to another process, its tensors in memory that both share.

    torch would do the same, but in a thread, in which an error loses the batch: who waits for it
    would wait for ever.
    """

    def __init__(self, batch: Batch) -> None:
        """Pickle a batch; raise _NoRoom if it cannot be handed over."""
        try:
            self._content = bytes(ForkingPickler.dumps(batch))
        except (OSError, RuntimeError) as error:
            raise _NoRoom from error

    def received(self) -> Batch:
        batch: Batch = ForkingPickler.loads(self._content)
        return batch

    def pin_memory(self) -> Batch:
        """Return it as it is to be copied to a GPU; torch asks for it."""
        return self.received().pin_memory()


def _pack_masks(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Masks]:
    """Unite the masks (H, W) of each image by region."""
    packed = {}
    for name in dict.fromkeys(name for masks in found for name in masks):
        blank = torch.zeros_like(next(masks[name] for masks in found if name in masks))
        pixels = torch.stack([masks.get(name, blank) for masks in found])
        packed[name] = Masks(pixels, tuple(name in masks for masks in found))
    return packed
