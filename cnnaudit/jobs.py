"""A command's words → composed configs → jobs, one or under -m several, and how they ended.

What Hydra would print or do by itself becomes one message and an exit code here.
"""

from __future__ import annotations

import gc
import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cnnaudit.types import AuditError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cnnaudit.audit import Invocation
    from cnnaudit.specs import AuditSpec

COMPLETE, ERROR, REFUSED, FAILED, INCOMPLETE, UNDECIDED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
_TAKE_A_VALUE = ("--config-dir", "-cd", "--cfg", "-c", "--package", "-p", "--info", "-i")
# What brings configs, or choices of them, that nobody would look at before Hydra takes them.
_REFUSED_OPTIONS = ("config_path", "config_name", "experimental_rerun")
_REFUSED_KEYS = ("hydra.searchpath", "hydra.sweeper", "hydra/sweeper")
_WORST_FIRST = (INCOMPLETE, FAILED, UNDECIDED, COMPLETE)


def with_hydra(stage: Callable[[AuditSpec, Invocation], int], overrides: Sequence[str]) -> int:
    """Compose the config as Hydra does, hand it to a stage as specs, and return the exit code.

    Raises AuditError for what is wrong in it, and whatever else has stopped the stage.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from cnnaudit import shipped
    from cnnaudit.config import check_choices

    called = "python run.py" if Path(sys.argv[0]).name == "run.py" else "cnnaudit run"
    command = f"{called} {shlex.join(overrides)}".rstrip()
    _ends.clear()

    def entry(config: DictConfig) -> _End:
        # A launcher may take it to another process: it holds nothing but what can be pickled.
        return _end_of(stage, config, command, overrides)

    # Hydra reads the process's arguments, and would print tracebacks or exit by itself.
    sys.argv = [sys.argv[0], *_keys_first(overrides)]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    own = None
    try:
        options = _options(sys.argv[1:])
        own = None if options.config_dir is None else Path(options.config_dir)
        check_choices(options.overrides, own)
        _check_hydra_itself(options.overrides, own)
        conf = str(shipped.locate("conf"))
        hydra.main(version_base="1.3", config_path=conf, config_name="audit")(entry)()
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise AuditError(_in_one_message(error, overrides, own)) from error
    except SystemExit as error:  # Hydra's own usage message, already printed
        return ERROR if error.code else COMPLETE
    stopped = [(end.job, end.stopped) for end in _ends if end.stopped is not None]
    for _, why in stopped:
        if len(_ends) == 1 or not isinstance(why, AuditError):
            raise why
    if stopped:
        told = "; ".join(f"{job}: {why}" for job, why in stopped)
        raise AuditError(f"{len(stopped)} of {len(_ends)} jobs stopped: {told}")
    return min((end.code for end in _ends), key=_WORST_FIRST.index, default=COMPLETE)


def _keys_first(words: Sequence[str]) -> list[str]:
    """Put keys before options, in their order: Hydra takes them in one piece only."""
    keys: list[str] = []
    others: list[str] = []
    for before, word in pairwise(["", *words]):
        is_key = "=" in word and not word.startswith("-") and before not in _TAKE_A_VALUE
        (keys if is_key or word.startswith("~") else others).append(word)
    return [*keys, *others]


def _options(words: Sequence[str]) -> Namespace:
    """Return options and overrides as Hydra itself reads them."""
    from hydra._internal.utils import get_args_parser

    from cnnaudit.sections import unknown

    def refuse(message: str) -> NoReturn:
        raise AuditError(message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # it would print a page of usage
    options, more = parser.parse_known_args(words)
    refused = {name: f"--{name.replace('_', '-')}" for name in _REFUSED_OPTIONS}
    if more:
        flags = re.findall(r"--[a-z-]+", parser.format_usage())
        known = [flag for flag in flags if flag not in refused.values()]
        raise AuditError(f"{unknown(more[0], known, 'option')}, and KEY=VALUE")
    given = [flag for name, flag in refused.items() if getattr(options, name)]
    given += [text for text in options.overrides if text.lstrip("+~").startswith(_REFUSED_KEYS)]
    for text in given:
        raise AuditError(f"{text}: cnnaudit does not take it; your own configs: --config-dir DIR")
    return options


def _check_hydra_itself(overrides: Sequence[str], config_dir: Path | None) -> None:
    """Refuse config files that set Hydra itself up: callbacks, loggers and launchers name code.

    Hydra runs it before anybody could ask whether it may. On the command line such settings count.
    """
    from cnnaudit.config import settings_of_hydra

    if config_dir is None or not config_dir.is_dir():
        return  # all files are our own
    asked = [text for text in overrides if text.lstrip("+~").startswith("hydra")]
    meant = settings_of_hydra(asked, None)
    for of_job in _jobs(overrides, config_dir):
        found = settings_of_hydra(of_job, config_dir)
        for key in found:
            if found[key] != meant.get(key):
                raise AuditError(
                    f"hydra.{key}: a config file cannot set Hydra itself up, since that can run "
                    "code; on the command line it can be set"
                )


def _jobs(overrides: Sequence[str], config_dir: Path | None) -> Iterator[tuple[str, ...]]:
    """Yield the overrides of each job that a multirun makes of other choices of config files."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob

    from cnnaudit.config import group_options

    alternatives: list[list[str]] = []
    parsed = OverridesParser.create().parse_overrides([*overrides])
    for text, read in zip(overrides, parsed, strict=True):
        if not read.is_sweep_override():
            alternatives.append([text])
        elif options := group_options(read.key_or_group, config_dir):  # else a value: no file
            sweep = read.value()
            found = (
                sweep.filter(options) if isinstance(sweep, Glob) else read.sweep_string_iterator()
            )
            alternatives.append([f"{read.get_key_element()}={one}" for one in found])
    yield from product(*alternatives)


class _End:
    """How a job ended: its exit code, or what stopped it.

    Under -m there are several, and Hydra drops what they return. So an end is noted when it is
    made, here or, on its way back from another process, once more here.
    """

    def __init__(self, job: str, code: int, stopped: BaseException | None = None) -> None:
        self.job, self.code, self.stopped = job, code, stopped
        _ends.append(self)

    def __reduce__(self) -> tuple[type[_End], tuple[str, int, BaseException | None]]:
        return _End, (self.job, self.code, self.stopped)


_ends: list[_End] = []  # of the jobs of this process's command


def _end_of(
    stage: Callable[[AuditSpec, Invocation], int],
    config: DictConfig,
    command: str,
    overrides: Sequence[str],
) -> _End:
    """Run a stage, unless somebody has asked one before it to end."""
    from hydra.core.hydra_config import HydraConfig

    from cnnaudit.audit import Invocation
    from cnnaudit.config import config_text, to_specs

    if not _ends:
        gc.freeze()  # what is loaded stays: to look through it for garbage takes time, each time
    job = shlex.join(one for one in HydraConfig.get().overrides.task if one not in overrides)
    stopped = _ends[-1].stopped if _ends else None
    if stopped is not None and not isinstance(stopped, AuditError):
        return _End(job, COMPLETE, stopped)
    try:
        audit = to_specs(config, overrides)
        return _End(job, stage(audit, Invocation(command, overrides, config_text(config))))
    except (AuditError, KeyboardInterrupt, OSError) as error:
        return _End(job, COMPLETE, error)  # not raised: Hydra would print a text around it
    except SystemExit as error:  # of somebody's own code: it must not pass for a complete audit
        ended = AuditError(f"code of your own has called sys.exit({error.code})")
        return _End(job, COMPLETE, ended)


def _in_one_message(error: Exception, overrides: Sequence[str], config_dir: Path | None) -> str:
    """Turn Hydra's, OmegaConf's and YAML's own errors into one message with the near miss."""
    from hydra.errors import OverrideParseException

    from cnnaudit.config import explain_key, group_options
    from cnnaudit.sections import unknown

    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        said = " ".join(text.partition("\nSee https")[0].replace("^", "").split())
        return f"{error.override}: {said}; a value with such signs needs quotes: \"KEY='VALUE'\""
    if choice := re.match(r"Error resolving interpolation '(.*)', possible", text):
        return (
            f"defaults: {choice[1]} chooses no config; allowed are other choices, ${{group}}, but "
            "not ${now:…} or ${oc.env:…}, which may choose another one each time"
        )
    if option := re.search(r"Could not (?:find|load) '(\w+)/([^']*)'", text):
        group, name = option.groups()
        options = group_options(group, config_dir)
        return f"{group}: {unknown(name, options, 'option')}"
    if key := re.search(r"Could not override '([^']+)'", text):
        return explain_key(key[1], overrides, config_dir)
    return text.partition("\nSee https")[0]
