"""Values that a config takes from the environment may be secrets, which no output tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from cnnaudit.types import AuditError

_RESOLVER = "oc.env"
# Keys whose values are in no output: where things lie and where the work runs.
_UNTOLD = ("output_dir", "store_dir", "preview", "device", "executor")
_UNTOLD_OF = {"model": ("weights", "labels"), "image_set": ("root",)}  # … of each of them

Keys = tuple[str, ...]  # that lead to a value


@contextmanager
def noted() -> Iterator[list[str]]:
    """Give a list that tells which variables of the environment are asked for meanwhile."""
    asked: list[str] = []

    def note(name: str, *default: Any) -> Any:
        asked.append(name)
        return oc.env(name, *default)

    OmegaConf.register_new_resolver(_RESOLVER, note, replace=True)
    try:
        yield asked
    finally:
        OmegaConf.register_new_resolver(_RESOLVER, oc.env, replace=True)


def check_untold(config: DictConfig) -> None:
    """Refuse a variable of the environment, itself or by way of another key, in what outputs tell.

    The config may be somebody else's, and its report is mailed.
    """
    with noted() as asked:
        for path in _from_environment(config, asked):
            of_each = len(path) == 3 and path[2] in _UNTOLD_OF.get(path[0], ())
            if path[0] not in _UNTOLD and not of_each:
                allowed = [*_UNTOLD, *(f"{g}.….{n}" for g, of in _UNTOLD_OF.items() for n in of)]
                raise AuditError(
                    f"{'.'.join(path)}: ${{{_RESOLVER}:{asked[0]}}} may be a secret, and outputs "
                    f"tell this value; what they do not tell are {', '.join(allowed)}"
                )


def _from_environment(
    config: DictConfig | ListConfig, asked: list[str], above: Keys = ()
) -> Iterator[Keys]:
    """Yield where values stand for which the environment is asked."""
    keys: Any = range(len(config)) if isinstance(config, ListConfig) else [*config]
    for key in keys:
        path = (*above, str(key))
        if path[0] == "hydra":
            continue
        asked.clear()
        try:
            value = config[key]
        except OmegaConfBaseException:  # nothing stands there yet
            continue
        if asked:
            yield path
        elif isinstance(value, DictConfig | ListConfig):
            yield from _from_environment(value, asked, path)
