"""What ``cnnaudit explain`` is asked: its arguments, read before torch is imported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnaudit.sections import near_miss, read_options, unknown
from cnnaudit.types import AuditError

TECHNIQUE = "grad_cam"  # works on every network with a spatial layer, and tells classes apart

USAGE = f"""\
cnnaudit explain MODEL IMAGE… [OPTION …] [KEY=VALUE …]

Write a heatmap of each picture, laid over the picture, as a PNG file.

  MODEL              an option of the config group model: resnet50, perception, one of your own
  IMAGE…             picture files; after --, also names that begin with -
  --technique NAMES  options of the config group technique, with commas; {TECHNIQUE} if not given
  --target NAMES     predicted, all_outputs, or classes by label or index, with commas; the model's
                     own if not given
  --layer LAYER      a role, a module path or an index of cnnaudit layers; else the technique's own
  --out FOLDER       where the files go; here if not given
  --config-dir DIR   your own configs

KEY=VALUE is what run takes: model.resnet50.weights=none technique.saliency.display=p99 device=cpu
"""

_OPTIONS = dict.fromkeys(("technique", "target", "layer", "out", "config-dir"), True)
_HINT = "; a picture of that name comes after --"
# Groups that the arguments choose from.
_ARGUMENTS = {"model": "MODEL", "image_set": "IMAGE", "technique": "--technique"}


@dataclass(frozen=True)
class Asked:
    """One call of ``cnnaudit explain``."""

    pictures: tuple[Path, ...]
    targets: tuple[str, ...]  # empty: the model's own
    layer: str  # "": the techniques' own
    out: Path
    overrides: tuple[str, ...]  # Hydra's, which choose the model and the techniques


def read_arguments(rest: Sequence[str]) -> Asked | None:
    """Return what the arguments ask for, or None if they ask for help; AuditError if they are off.

    Torch is not imported for this.
    """
    found, words = read_options("explain", rest, _OPTIONS, hint=_HINT)
    options = {name: value for name, (value, *_) in found.items()}
    if "help" in options:
        return None
    overrides = [word for word in words if _is_override(word)]
    model, *pictures = [word for word in words if not _is_override(word)] or [""]
    if not pictures:
        raise AuditError(
            "explain takes a model and at least one picture: cnnaudit explain resnet50 cat.jpg"
        )
    techniques = _listed(options.get("technique", TECHNIQUE))
    config_dir = options.get("config-dir")
    _check_names(model, techniques, config_dir)
    return Asked(
        pictures=tuple(dict.fromkeys(map(_picture, pictures))),
        targets=_listed(options["target"]) if "target" in options else (),
        layer=options.get("layer", ""),
        out=Path(options.get("out", ".")),
        overrides=_overrides(model, techniques, overrides, config_dir),
    )


def _is_override(word: str) -> bool:
    return "=" in word and not Path(word).is_file()


def _listed(names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in names.split(",")))


def _picture(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        raise AuditError(f"IMAGE: {name!r} is a folder; name pictures, such as {name}/*.png")
    if not path.is_file():
        beside = (other.name for other in path.parent.glob("*"))
        raise AuditError(f"IMAGE: there is no file {name!r}.{near_miss(path.name, beside)}")
    return path


def _check_names(model: str, techniques: Iterable[str], config_dir: str | None) -> None:
    from cnnaudit.config import group_options

    own = None if config_dir is None else Path(config_dir)
    for group, names in (("model", [model]), ("technique", techniques)):
        known = group_options(group, own)
        for name in names:
            if name not in known:
                raise AuditError(f"{_ARGUMENTS[group]}: {unknown(name, known, 'option')}")


def _overrides(
    model: str, techniques: Iterable[str], given: Sequence[str], config_dir: str | None
) -> tuple[str, ...]:
    """Return the overrides that a run would be given for the same model and techniques."""
    keys = {text.partition("=")[0].lstrip("+~") for text in given}
    for group in _ARGUMENTS:
        if group in keys:
            raise AuditError(f"{group}: {_ARGUMENTS[group]} says so already; leave {group}=… out")
    return (
        *([] if config_dir is None else [f"--config-dir={config_dir}"]),
        *([] if "experiment" in keys else ["experiment=none"]),
        f"model=[{model}]",
        f"technique=[{','.join(techniques)}]",
        *given,
    )
