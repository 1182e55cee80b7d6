"""timm's networks: any architecture by name, its published weights as timm itself loads them."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from cnnaudit.sections import unknown
from cnnaudit.specs import ModelSpec
from cnnaudit.types import AuditError

CLASSES = 1000  # of an untrained network without labels, as ImageNet has
DEFAULT = "pretrained"  # stands for the weights that timm prefers for an architecture
_HUB_FILE = "model.safetensors"


def build(spec: ModelSpec) -> nn.Module:
    """Build a network, its published weights in it where the spec has them.

    Raises AuditError if there is no such architecture, or the weights do not fit.
    """
    timm = _timm(spec)
    if not spec.pretrained:
        model: nn.Module = timm.create_model(spec.arch, num_classes=len(spec.labels) or CLASSES)
        return model
    published = _published(spec, spec.pretrained, "weights")
    _check_preprocessing(spec, published)
    try:
        trained: nn.Module = timm.create_model(
            f"{spec.arch}.{published.tag}",
            pretrained=True,  # timm renames what is called otherwise in the file
            pretrained_cfg_overlay={"file": str(spec.weights), "custom_load": False},
            num_classes=published.num_classes,
        )
    except Exception as error:  # of a file that is cut off, or is another network's
        raise AuditError(
            f"model.{spec.name}.weights: timm cannot load {spec.weights} into {spec.arch!r} "
            f"({type(error).__name__}: {error})"
        ) from error
    return trained


def resolve(spec: ModelSpec) -> ModelSpec:
    """Return a spec with the file of its published weights, fetched where needed, and its labels.

    Raises AuditError if the file cannot be had.
    """
    published = _published(spec, spec.pretrained, "weights")
    name = f"{spec.arch}.{published.tag}{Path(_HUB_FILE).suffix}"
    if not published.hf_hub_id:
        name = Path(urlparse(published.url).path).name
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.exists():
        file = _fetch(published, file, f"model.{spec.name}.weights")
    return replace(spec, weights=file, labels=spec.labels or labels_of(spec, spec.pretrained))


def labels_of(spec: ModelSpec, name: str) -> tuple[str, ...]:
    """Return the class names of published weights: ImageNet's, or none where timm knows none."""
    published = _published(spec, name, "labels")
    if published.label_names:
        return tuple(published.label_names)
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": published.num_classes})
    if subset is None:
        return ()
    info = ImageNetInfo(subset)
    synonyms = (info.index_to_description(index) for index in range(published.num_classes))
    return tuple(text.split(",")[0] for text in synonyms)  # as torchvision names them


def _timm(spec: ModelSpec) -> Any:
    try:
        import timm
    except ImportError as error:
        raise AuditError(
            f"model.{spec.name}.builder: timm cannot be imported ({error}); "
            "it is an extra: pip install 'cnnaudit[timm]'"
        ) from error
    if not timm.is_model(spec.arch):
        known = unknown(spec.arch, timm.list_models())
        few = known.partition(" Allowed: ")[0]  # there are over a thousand
        raise AuditError(f"model.{spec.name}.arch: {few} Allowed: any name of timm.list_models()")
    return timm


def _published(spec: ModelSpec, name: str, key: str) -> Any:
    """Return timm's record of published weights of an architecture."""
    _timm(spec)
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

    known: dict[str, Any] = {
        cfg.tag: cfg
        for cfg in get_arch_pretrained_cfgs(spec.arch).values()
        if cfg.tag and (cfg.hf_hub_id or cfg.url)
    }
    if known:
        known = {DEFAULT: get_pretrained_cfg(spec.arch), **known}
    if name not in known:
        what = f"model.{spec.name}.{key}: {unknown(name, known)}"
        raise AuditError(f"{what}, or a path with a suffix")
    return known[name]


def _fetch(published: Any, file: Path, where: str) -> Path:
    """Return the file of published weights, from the hub's own cache or from the network."""
    source = f"{_HUB_FILE} of https://huggingface.co/{published.hf_hub_id}"
    try:
        if published.hf_hub_id:
            return _from_hub(published.hf_hub_id)
        source = published.url
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            torch.hub.download_url_to_file(published.url, str(file), progress=False)
    except Exception as error:  # the network's errors, and the hub's
        raise AuditError(
            f"{where}: {source} cannot be fetched ({error}); put it into {file.parent} "
            f"as {file.name}"
        ) from error
    return file


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name, _, revision = hub_id.partition("@")
    wanted = partial(hf_hub_download, name, _HUB_FILE, revision=revision or None)
    try:
        return Path(wanted(local_files_only=True))
    except LocalEntryNotFoundError:
        return Path(wanted())


def _check_preprocessing(spec: ModelSpec, published: Any) -> None:
    """Refuse a normalisation that these weights were not trained with."""
    for key in ("mean", "std"):
        declared, trained = getattr(spec.preprocessing, key), getattr(published, key)
        if any(abs(a - b) > 1e-3 for a, b in zip(declared, trained, strict=True)):
            raise AuditError(
                f"model.{spec.name}.preprocessing.{key}: {list(declared)}, but the weights "
                f"{published.tag!r} were trained with {list(trained)} (pictures of "
                f"{published.input_size[1]}×{published.input_size[2]}, a share of "
                f"{published.crop_pct:g} of the resized picture, {published.interpolation})"
            )
