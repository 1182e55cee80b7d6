"""Items → batches: in their order, a bad file failing only its own item."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from dataclasses import replace
from functools import partial
from itertools import chain
from multiprocessing import current_process
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, UntypedStorage

from cnnaudit.image_sets.batches import Paired, Reader, _Parts
from cnnaudit.image_sets.files import file_inside
from cnnaudit.image_sets.perturbed import read_picture
from cnnaudit.models.preprocessing import prepare_image, prepare_mask
from cnnaudit.specs import Preprocessing
from cnnaudit.store import digest_file
from cnnaudit.types import Batch, File, Item, ProcessDied

PREPROCESSING = Preprocessing((6, 8), "box", "rgb", (0, 0, 0), (1, 1, 1))
NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Five pictures, each of one grey; b has no mask, d no truth, e a label."""
    found = []
    for number, name in enumerate(NAMES):
        Image.new("RGB", (8, 6), (number * 10,) * 3).save(tmp_path / f"{name}.png")
        drawn = np.zeros((6, 8), np.uint8)
        drawn[number, 1:4] = 255
        Image.fromarray(drawn).save(tmp_path / f"{name}-mask.png")
        (tmp_path / f"{name}.csv").write_text(f"l,r\n{number},1\n0,{number}\n")
        image, mask, values = (
            file_inside(tmp_path, f"{name}{end}", "") for end in (".png", "-mask.png", ".csv")
        )
        truth = {"d": None, "e": "tench"}.get(name, values)
        found.append(Item(name, image, {} if name == "b" else {"mask": mask}, truth, {}))
    return found


_image = partial(prepare_image, preprocessing=PREPROCESSING)
_mask = partial(prepare_mask, preprocessing=PREPROCESSING)


def read(items: list[Item], size: int, workers: int = 0) -> list[Batch]:
    return ahead(Reader(_image, _mask, size, workers), items)


def ahead(reader: Reader, items: list[Item]) -> list[Batch]:
    (found,) = map(list, reader.read([alone(items)]))
    return found


def alone(items: list[Item]) -> Paired:
    """Items without partners."""
    return items, [None] * len(items)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_every_item_once_and_in_order(items: list[Item], size: int) -> None:
    found = read(items, size)
    assert [len(batch) for batch in found] == {
        1: [1, 1, 1, 1, 1],
        2: [1, 2, 2],
        5: [5],
        9: [5],
    }[size]
    assert [item.id for batch in found for item in batch.items] == list(NAMES)
    images = torch.cat([batch.images for batch in found])
    assert images.shape == (5, 3, 6, 8)
    greys = (images[:, 0, 0, 0] * 255).round().int().tolist()
    assert greys == [0, 10, 20, 30, 40]


def test_masks_and_truths_belong_to_their_items(items: list[Item]) -> None:
    (batch,) = read(items, 5)
    assert batch.masks["mask"].present == (True, False, True, True, True)
    for number, mask in enumerate(batch.masks["mask"].each()):
        if NAMES[number] == "b":
            assert mask is None
        else:
            assert mask.nonzero().tolist() == [[number, column] for column in (1, 2, 3)]
    assert set(batch.truths) == {"a", "b", "c", "e"}
    assert batch.truths["c"].tolist() == [2, 1, 0, 2]  # row by row
    assert batch.truths["e"] == "tench"
    assert batch.failures == {}


def spoil_picture(item: Item) -> None:
    item.image.path.write_bytes(item.image.path.read_bytes()[:50])


def spoil_mask(item: Item) -> None:
    mask = item.regions["mask"]
    assert isinstance(mask, File)
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(mask.path)


def spoil_truth(item: Item) -> None:
    assert isinstance(item.truth, File)
    item.truth.path.write_text("l,r\nyes,no\n")


def remove_picture(item: Item) -> None:
    item.image.path.unlink()


def as_planned_now(item: Item) -> Item:
    """An item as an audit has it that begins with the files as they are."""

    def again(one):
        there = isinstance(one, File) and one.path.exists()
        return File(one.name, bytes.fromhex(digest_file(one.path))) if there else one

    regions = {name: again(region) for name, region in item.regions.items()}
    return replace(item, image=again(item.image), regions=regions, truth=again(item.truth))


@pytest.mark.parametrize("spoil", [spoil_picture, spoil_mask, spoil_truth, remove_picture])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_bad_file_fails_only_its_own_item(items: list[Item], spoil, size: int) -> None:
    before = {batch.items[0].id: batch.images[0] for batch in read(items, 1)}
    spoil(items[2])
    items[2] = as_planned_now(items[2])
    found = read(items, size)
    assert [item.id for batch in found for item in batch.items] == ["a", "b", "d", "e"]
    (failure,) = [batch.failures for batch in found if batch.failures]
    assert list(failure) == ["c"]
    assert str(items[2].image.path.parent) not in failure["c"]  # reports tell it
    for batch in found:
        assert "c" not in batch.truths
        for masks in batch.masks.values():
            assert len(masks.pixels) == len(masks.present) == len(batch)
        for item, image in zip(batch.items, batch.images, strict=True):
            assert torch.equal(image, before[item.id])


@pytest.mark.parametrize("changed", ["image", "mask", "truth"])
def test_a_file_that_changes_after_the_plan_fails_its_item(items: list[Item], changed: str) -> None:
    """Its numbers would lie in the store as those of the file that was planned."""
    c, d = items[2:4]
    ours = {"image": c.image, "mask": c.regions["mask"], "truth": c.truth}[changed]
    other = {"image": d.image, "mask": d.regions["mask"], "truth": items[0].truth}[changed]
    ours.path.write_bytes(other.path.read_bytes())
    (batch,) = read(items, 5)
    assert batch.ids == ("a", "b", "d", "e")
    assert batch.failures["c"].startswith(f"{ours.path.name} has changed since the audit was")


def test_a_file_that_changes_while_it_is_read_fails_its_item(
    items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    c, d = items[2:4]

    def too_late(item: Item) -> Image.Image:
        if item.id == "c":
            c.image.path.write_bytes(d.image.path.read_bytes())
        return read_picture(item)

    monkeypatch.setattr("cnnaudit.image_sets.batches.read_picture", too_late)
    (batch,) = read(items, 5)
    assert batch.ids == ("a", "b", "d", "e")
    assert batch.failures["c"].startswith(f"{c.image.path.name} has changed since the audit was")


@pytest.fixture
def reader() -> Reader:
    return Reader(_image, _mask, 5, swapped=frozenset({"mask"}))


def test_masks_of_partners_come_with_their_items(items: list[Item], reader: Reader) -> None:
    partners = [items[1], items[2], None, items[0], items[0]]
    ((batch,),) = map(list, reader.read([(items, partners)]))
    (own, swapped) = batch.masks["mask"].each(), batch.swaps["mask"].each()
    assert [mask is None for mask in swapped] == [True, False, True, False, False]
    for place, partner in ((1, 2), (3, 0), (4, 0)):
        assert torch.equal(swapped[place], own[partner])
    ((batch,),) = map(list, Reader(_image, _mask, 5).read([(items, partners)]))
    assert batch.swaps == {}  # no metric is of that region


def test_a_bad_mask_of_a_partner_fails_the_item(items: list[Item], reader: Reader) -> None:
    spoil_mask(items[0])
    items[0] = as_planned_now(items[0])
    partners = [items[3], items[0], None, None, items[0]]
    ((batch,),) = map(list, reader.read([(items, partners)]))
    assert batch.ids == ("c", "d")
    assert batch.failures["b"].startswith("its partner for the swap, 'a': ")
    assert batch.failures["e"].endswith(batch.failures["a"])


def test_a_part_of_a_batch_is_what_a_smaller_one_would_be(
    items: list[Item], reader: Reader
) -> None:
    spoil_picture(items[4])
    items[4] = as_planned_now(items[4])
    partners = [items[1], items[2], None, items[0], None]
    ((batch,),) = map(list, reader.read([(items, partners)]))
    ((small,),) = map(list, reader.read([(items[1:3], partners[1:3])]))
    part = batch.part(1, 3)
    assert (part.items, part.failures) == (small.items, {})
    assert torch.equal(part.images, small.images)
    for kind, other in ((part.masks, small.masks), (part.swaps, small.swaps)):
        assert kind["mask"].present == other["mask"].present
        assert torch.equal(kind["mask"].pixels, other["mask"].pixels)


def test_a_batch_moves_as_a_whole(
    items: list[Item], reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((batch,),) = map(list, reader.read([(items, [*items[1:], None])]))
    moved = batch.to(torch.device("meta"))
    assert {tensor.device.type for tensor in _tensors(moved)} == {"meta"}
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    assert {*map(id, _tensors(batch.pin_memory()))} == {*map(id, pinned)}
    assert len(pinned) == 3


def _tensors(batch: Batch) -> list[Tensor]:
    kinds = (batch.masks, batch.swaps)
    return [batch.images, *(one.pixels for kind in kinds for one in kind.values())]


def test_a_batch_of_bad_files(items: list[Item]) -> None:
    for item in items:
        remove_picture(item)
    (batch,) = read(items, 5)
    assert len(batch) == 0
    assert set(batch.failures) == set(NAMES)


def test_worker_processes_give_the_same(items: list[Item]) -> None:
    spoil_picture(items[1])
    here, there = read(items, 2), read(items, 2, workers=1)
    assert len(here) == len(there) == 3
    for one, other in zip(here, there, strict=True):
        assert one.items == other.items
        assert torch.equal(one.images, other.images)
        assert one.failures == other.failures
        assert one.truths.keys() == other.truths.keys()
        assert one.masks.keys() == other.masks.keys()
        for name, masks in one.masks.items():
            assert masks.present == other.masks[name].present
            assert torch.equal(masks.pixels, other.masks[name].pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_batch_has_items_of_two_chunks(items: list[Item], workers: int) -> None:
    chunks = [*map(alone, (items[:3], items[3:4], items))]
    reader = Reader(_image, _mask, 2, workers)
    found = [[batch.ids for batch in chunk] for chunk in reader.read(chunks)]
    assert found == [
        [("a",), ("b", "c")],
        [("d",)],
        [("a",), ("b", "c"), ("d", "e")],
    ]


@pytest.mark.parametrize("number", [1, 7, 8, 9, 98, 128])
def test_the_batches_of_a_chunk_are_even_and_few(number: int) -> None:
    parts = _Parts(8)
    parts.begin([alone([Item(str(n), File("", b""), {}, None, {}) for n in range(number)])])
    sizes = [*map(len, parts)]
    assert len(sizes) == -(-number // 8)
    assert sum(sizes) == number
    assert max(sizes) <= min(sizes) + 1 <= 9


def test_a_reader_keeps_its_processes(items: list[Item]) -> None:
    def named(_picture: Image.Image) -> Tensor:
        return torch.tensor([os.getpid()])

    reader = Reader(named, _mask, 2, workers=1)
    processes, found = set(), []
    for chunk in (items[:3], items[1:], items):
        for batch in ahead(reader, chunk):
            processes |= set(batch.images.flatten().tolist())
            found += batch.ids
    assert found == [*"abc", *"bcde", *"abcde"]
    assert len(processes) == 1
    assert os.getpid() not in processes


def test_a_process_that_dies_is_an_error_and_no_end_of_waiting(items: list[Item]) -> None:
    def killed(_picture: Image.Image) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it lives")

    with pytest.raises(ProcessDied, match="a process that reads pictures ended"):
        ahead(Reader(killed, _mask, 2, workers=1), items)


def test_without_shared_memory_this_process_reads(
    items: list[Item], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Containers have little of it. torch would lose the batch, and wait for it for ever."""
    here, room, shared = os.getpid(), 2, UntypedStorage._share_fd_cpu_

    def share(storage: UntypedStorage) -> object:
        nonlocal room
        if storage.nbytes() == 16 and os.getpid() != here:  # images, of which each batch has one
            room -= 1
            if room < 0:
                raise RuntimeError("unable to allocate shared memory(shm): No space left on device")
        return shared(storage)

    def named(picture: Image.Image) -> Tensor:
        return torch.tensor([os.getpid(), picture.getpixel((0, 0))[0]])

    monkeypatch.setattr(UntypedStorage, "_share_fd_cpu_", share)
    reader = Reader(named, _mask, 1, workers=1)
    found = [*chain(*reader.read([alone(items[:3]), alone(items[3:])]))]
    assert [batch.ids[0] for batch in found] == [*"abcde"]
    assert [int(batch.images[0, 0]) == here for batch in found] == [False, False, True, True, True]
    assert "no room in shared memory" in caplog.text
    (batch, *_) = ahead(reader, items)
    assert (batch.ids, int(batch.images[0, 0])) == (("a",), here)


def test_without_a_folder_for_temporary_files_this_process_reads(items: list[Item]) -> None:
    """Containers may be read-only, and processes meet in such a folder. Or it waits for ever."""
    here = os.getpid()

    def without(_picture: Image.Image) -> Tensor:
        if os.getpid() != here:
            current_process()._config.pop("tempdir", None)
            tempfile.tempdir = "/nowhere"
        return torch.tensor([os.getpid()])

    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(20)
    found = ahead(Reader(without, _mask, 2, workers=1), items)
    signal.alarm(0)
    assert [int(batch.images[0, 0]) for batch in found] == [here] * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_whatever_decoding_raises_fails_its_own_item(items: list[Item], workers: int) -> None:
    def poisoned(picture: Image.Image) -> Tensor:
        if picture.getpixel((0, 0)) == (20, 20, 20):
            raise ZeroDivisionError("of all things")
        return _image(picture)

    (batch,) = ahead(Reader(poisoned, _mask, 5, workers), items)
    assert batch.ids == ("a", "b", "d", "e")
    assert batch.failures == {"c": "ZeroDivisionError: of all things"}


def test_a_large_batch_needs_few_file_descriptors(items: list[Item]) -> None:
    """What comes from another process takes one for every tensor."""
    many = [replace(items[0], id=f"{number}") for number in range(200)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 60, limits[1]))
    try:
        (batch,) = ahead(Reader(_image, _mask, 200, workers=1), many)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(batch) == len(batch.masks["mask"].pixels) == len(batch.truths) == 200
