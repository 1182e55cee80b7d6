"""``cnnaudit init``: a commented config and an empty manifest to start from."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from cnnaudit.types import AuditError

# Words that a config would read as a value, not as a name.
_NO_NAMES = ("false", "inf", "nan", "no", "null", "off", "on", "true", "yes")

_EXPERIMENT = """\
# @package _global_
# What is audited. Every list and key here can also be given on the command line, which wins:
#   {run}
defaults:
  - override /model: [resnet18]           # one or several; all of them: cnnaudit run --help
{chosen:<41} # the pictures, declared in ../image_set/{name}.yaml
  - override /target: []                  # [] is the model's own: here, the class it predicts
  - override /technique: [saliency, grad_cam, center_prior]  # the last one sees no network: it says
                                          # what looking at the middle of each picture would earn
  - override /metric: [overlap]           # how much of each heatmap lies on the mask
  - override /contrast: []                # comparisons of two levels of a factor, as of light; each
                                          # is a file of your own, ../contrast/<its name>.yaml
  - override /check: []                   # what must hold of a contrast, ../check/<its name>.yaml;
                                          # with gate=true the exit code says if it does
  - override /agreement: []               # which heatmaps are correlated with which
  - _self_
{named:<41} # results go to outputs/{name}/

model:
  resnet18:
    weights: DEFAULT                      # published ones, fetched once; or a file of your own; or
                                          # none: untrained
"""

_IMAGE_SET = """\
# The pictures. Each has a line in manifest.csv, in the folder that root names:
#   id      any text that no other line has
#   image   a picture file; paths are relative to the manifest and stay below its folder
#   mask    where the object is: a PNG of the picture's size, 0 outside the object and one other
#           value inside; or box:LEFT TOP RIGHT BOTTOM, or polygon:X Y X Y X Y, in pixels; empty:
#           there is none. A mask of something else: a column mask:shadow, say
#   truth   the true class, its label or its index; empty: not known
#   light   a factor: what the results are told apart by. Any other column is one too; rename it,
#           add some, or leave it out
{name}:
  uses: manifest
{root:<31} # if relative, to where the command runs
  unit: null                    # the factor whose levels are independent draws, such as scene where
                                # several pictures show one; null: each picture is
  exemplars: 12                 # pictures that the report shows in full
"""

_MANIFEST = "id,image,mask,truth,light\n"

_NEXT = """\
wrote {experiment}: what is audited
wrote {image_set}: what the pictures are
wrote {manifest}: the pictures, none yet

Put pictures beside the manifest, give each a line in it, such as
  cat 1,cat-1.jpg,cat-1-mask.png,,day
then see what would be computed, and run it:
  {plan}
  {run}
"""


def start(rest: Sequence[str]) -> str:
    """Write the files of a new audit, and return what to do next.

    Raises AuditError if a file of that name is there already; nothing is written then.
    """
    if len(rest) != 1 or not rest[0] or rest[0].startswith("-") or not rest[0].isprintable():
        raise AuditError("init takes one folder: cnnaudit init my_audit")
    folder = Path(rest[0])
    if not re.fullmatch(r"[\w.][^:]*", str(folder)):  # an option, a home folder or a prefix, if
        folder = folder.absolute()  # it stood in a command or a config as it is
    name = _option_name(folder.resolve().name)
    conf, manifest = folder / "conf", folder / "images/manifest.csv"
    experiment, image_set = (conf / f"{group}/{name}.yaml" for group in ("experiment", "image_set"))
    called = f"--config-dir {shlex.quote(str(conf))} experiment={name}"
    run, plan = f"cnnaudit run {called}", f"cnnaudit plan {called}"
    _write_new(
        {
            experiment: _EXPERIMENT.format(
                name=name,
                run=run,
                chosen=f"  - override /image_set: [{name}]",
                named=f"name: {name}",
            ),
            image_set: _IMAGE_SET.format(name=name, root=f"  root: {_quoted(manifest.parent)}"),
            manifest: _MANIFEST,
        }
    )
    return _NEXT.format(
        experiment=experiment, image_set=image_set, manifest=manifest, run=run, plan=plan
    )


def _option_name(folder: str) -> str:
    """Return a folder's name as a config group can have it, and as no shipped option is called."""
    from cnnaudit.config import group_options

    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode()
    name = re.sub(r"\W+", "_", plain).strip("_")
    shipped = {*group_options("experiment", None), *group_options("image_set", None)}
    if not name:
        return "my_audit"
    taken = name in shipped or name.lower() in _NO_NAMES
    return f"my_{name}" if taken or not name[0].isalpha() else name


def _quoted(path: Path) -> str:
    """Write a path so that YAML reads it as it is, and no ${…} in it is interpolated."""
    return json.dumps(str(path).replace("${", r"\${"), ensure_ascii=False)


def _write_new(files: dict[Path, str]) -> None:
    for path in files:
        if path.exists() or path.is_symlink():
            raise AuditError(f"{path} is there already; name another folder")
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise AuditError(f"cannot write {path} ({error.strerror})") from error
