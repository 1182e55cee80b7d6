"""torchvision's classifiers: any architecture by name, and its published weights as a file."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models

from cnnaudit.sections import unknown
from cnnaudit.specs import ModelSpec
from cnnaudit.store import digest_file
from cnnaudit.types import AuditError

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

CLASSES = 1000  # of an untrained network without labels, as ImageNet has
_WITH_AUXILIARY = ("googlenet", "inception_v3")  # heads that only training uses
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.")  # in the name of a published file
# DenseNet's files were published before its modules were renamed; torchvision renames them as well.
_RENAMED = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def build(spec: ModelSpec) -> nn.Module:
    """Build a classifier without weights; raise AuditError if there is none of that name."""
    _check_arch(spec)
    options: dict[str, Any] = {"num_classes": CLASSES}
    if spec.pretrained:
        options["num_classes"] = len(labels_of(spec, spec.pretrained))
    elif spec.labels:
        options["num_classes"] = len(spec.labels)
    if spec.arch in _WITH_AUXILIARY:
        options |= {"aux_logits": False, "init_weights": True}
        # The published weights were trained on another normalisation, which the network undoes.
        options["transform_input"] = bool(spec.pretrained)
    model: nn.Module = models.get_model(spec.arch, weights=None, **options)
    return model


def adapt(spec: ModelSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under today's names, without heads that only training uses."""
    if spec.arch in _WITH_AUXILIARY:
        state = {name: x for name, x in state.items() if not name.startswith(_AUXILIARY)}
    if spec.arch.startswith("densenet"):
        state = {_RENAMED.sub(r"\1\2", name): x for name, x in state.items()}
    return dict(state)


def resolve(spec: ModelSpec) -> ModelSpec:
    """Return a spec with the file of its published weights, fetched where needed, and its labels.

    Raises AuditError if the file cannot be had, or is not what was published.
    """
    published = _published(spec, spec.pretrained, "weights")
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(published.url).path).name
    where = f"model.{spec.name}.weights"
    if not file.exists():
        _fetch(published, file, where)
    _verify(file, where)
    return replace(spec, weights=file, labels=spec.labels or labels_of(spec, spec.pretrained))


def labels_of(spec: ModelSpec, name: str) -> tuple[str, ...]:
    """Return the class names of published weights, which need not be fetched for it."""
    return tuple(_published(spec, name, "labels").meta["categories"])


def _check_arch(spec: ModelSpec) -> None:
    known = models.list_models(module=models)
    if spec.arch not in known:
        raise AuditError(f"model.{spec.name}.arch: {unknown(spec.arch, known)}")


def _published(spec: ModelSpec, name: str, key: str) -> WeightsEnum:
    _check_arch(spec)
    weights = models.get_model_weights(spec.arch)
    if name not in weights.__members__:
        raise AuditError(
            f"model.{spec.name}.{key}: {unknown(name, weights.__members__)}, "
            "none, or a path with a suffix"
        )
    return weights[name]


def _fetch(published: WeightsEnum, file: Path, where: str) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where torch says that it downloads
            published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # the network's errors, and torch's of a wrong digest
        raise AuditError(
            f"{where}: {published.url} cannot be fetched ({error}); "
            f"put the file {file.name} into {file.parent}"
        ) from error


def _verify(file: Path, where: str) -> None:
    """Hold a file against the digest in its own name, which torch does only while fetching."""
    declared = _DIGEST.search(file.name)
    found = digest_file(file)
    if declared is None or not found.startswith(declared[1]):
        raise AuditError(
            f"{where}: {file} is not the file that was published, its SHA-256 is {found[:16]}…; "
            "remove it, and it is fetched again"
        )
