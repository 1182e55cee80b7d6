"""The commands: ``cnnaudit run · plan · layers · report · compare · reproduce · explain · …``.

``run.py`` is ``cnnaudit run``.

Exit codes: 0 the audit is complete, whatever its verdict; 1 an error, said in one message;
4 incomplete (something failed, which the report names); 130 interrupted. With gate=true the verdict
counts as well: 3 a check failed, 5 undecided (inconclusive or not measured). 2 is of compare alone:
it refuses runs whose inputs differ.
"""

from __future__ import annotations

import errno
import gc
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cnnaudit.jobs import (
    COMPLETE,
    ERROR,
    FAILED,
    INCOMPLETE,
    INTERRUPTED,
    REFUSED,
    UNDECIDED,
    with_hydra,
)
from cnnaudit.numerics import release_memory, share_heap
from cnnaudit.streams import is_read, let_go, open_what_is_closed, say, tell
from cnnaudit.types import AuditError

if TYPE_CHECKING:
    from cnnaudit.asking import Asked
    from cnnaudit.audit import Invocation, Outcome
    from cnnaudit.specs import AuditSpec

_USAGE = """\
cnnaudit: find out whether a CNN looks at the right thing

  cnnaudit run [KEY=VALUE …]     run an audit, or continue it; writes an HTML report
  cnnaudit plan [KEY=VALUE …]    say what a run would compute and how long it would take;
                                 with --explain why, cell by cell
  cnnaudit layers [KEY=VALUE …]  list each model's modules in execution order
  cnnaudit report RUN_DIR        make the report of a run again, from its results
  cnnaudit compare RUN_A RUN_B   say what got better and worse from one run to another, before and
                                 after a fix; its options: cnnaudit compare --help
  cnnaudit reproduce RUN_DIR     compute a run again from scratch, and say which cells agree
  cnnaudit explain MODEL IMAGE…  write heatmaps of pictures; its options: cnnaudit explain --help
  cnnaudit init FOLDER           write a config and an empty manifest to start from
  cnnaudit import FORMAT …       make an image set of COCO, Pascal VOC or ImageNet-S; its options:
                                 cnnaudit import --help

Options of run, plan and layers are Hydra's: groups are chosen as lists, values set by key
('technique=[saliency,grad_cam]' device=cpu). Your own configs: --config-dir DIR. All groups and
keys: cnnaudit run --help. What would be composed: cnnaudit run --cfg job.
"""


_USAGES = {
    "report": """\
cnnaudit report RUN_DIR [KEY=VALUE …]

Make the report of a run again, from its results.

Of a run in shards (outputs/robot/…-shards): once all shards are done, join them, judge, and make
the report. Only here may keys be set anew (gate=true); a run with code of your own needs
allow_code=true.
""",
    "reproduce": """\
cnnaudit reproduce RUN_DIR [KEY=VALUE …]

Compute a run again from scratch, without the store, and keep nothing. Say which cells agree (a
cell is what one technique gives for a part of the pictures; sanity curves and agreement count,
too), and what is different now in the environment. Keys of its config may be set anew (device=cpu);
a run with code of your own needs allow_code=true. Relative paths in its config begin where this
command runs.

Exit codes: 0 every cell agrees; 1 one does not, or an error.
""",
    "init": """\
cnnaudit init FOLDER

Write a commented config, FOLDER/conf, and an empty manifest, FOLDER/images/manifest.csv, to start
from, and say what to do next. Nothing is written if one of the files is there already.
""",
}


_ENDS = (signal.SIGTERM, signal.SIGHUP)
_NOT_WRITTEN = (errno.ENOSPC, errno.EIO)  # of standard output: its file is full, its terminal gone


def main(arguments: Sequence[str] = ()) -> NoReturn:
    """Run the command that the process was called with; `arguments` stand before its own."""
    open_what_is_closed()
    # Arrow's own allocators would keep the memory of millions of rows, which is needed only once.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    share_heap()
    # How schedulers, containers and closed terminals ask a process to end: as Ctrl-C does. What is
    # ignored, as under nohup, stays so.
    ends = [one for one in _ENDS if signal.getsignal(one) is signal.SIG_DFL]
    for one in ends:
        signal.signal(one, signal.default_int_handler)
    arguments = [*arguments, *sys.argv[1:]]
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    try:
        code = _dispatch(command, rest)
        sys.stdout.flush()
        sys.exit(code)
    except AuditError as error:
        say(f"error: {error}")
        sys.exit(ERROR)
    except BrokenPipeError:
        if is_read():
            raise
        let_go(sys.stdout)
        sys.exit(ERROR)
    except OSError as error:
        if error.filename is not None:
            say(f"error: {error.filename}: {error.strerror}")
            sys.exit(ERROR)
        if error.errno not in _NOT_WRITTEN:
            raise
        let_go(sys.stdout)
        say(f"error: what there is to say cannot be written ({error.strerror})")
        sys.exit(ERROR)
    except KeyboardInterrupt:
        continues = "; what was finished is in the store, the same command continues"
        say(f"interrupted{continues if command == 'run' else ''}")
        sys.exit(INTERRUPTED)
    finally:
        for one in ends:
            signal.signal(one, signal.SIG_DFL)
        gc.unfreeze()
        release_memory()  # ending the process may need as much again


def _dispatch(command: str, rest: Sequence[str]) -> int:
    if command in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return COMPLETE
    if command == "--version":
        from cnnaudit import __version__

        print(__version__)
        return COMPLETE
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "run": lambda rest: with_hydra(_run, rest),
        "plan": _plan,
        "layers": lambda rest: with_hydra(_layers, rest),
        "report": _report,
        "compare": _compare,
        "reproduce": _reproduce,
        "explain": _explain,
        "init": _init,
        "import": _import,
    }
    if command not in commands:
        from cnnaudit.sections import unknown

        raise AuditError(unknown(command, commands, "command"))
    if command in _USAGES and {"-h", "--help"} & set(rest):
        print(_USAGES[command], end="")
        return COMPLETE
    return commands[command](rest)


def _run(audit: AuditSpec, invocation: Invocation) -> int:
    from cnnaudit.audit import run_audit

    if audit.preview is not None:
        raise AuditError("preview: a run draws none; it is for `cnnaudit plan preview=…`")
    if audit.executor.shard is not None:
        return _run_shard(audit, invocation)
    if audit.executor.shards > 1:
        last = audit.executor.shards - 1
        raise AuditError(f"executor.shard: say which one is to be computed here, 0 to {last}")
    outcome = run_audit(audit, invocation)
    _say_default(audit, invocation)
    return _announce(audit, outcome)


def _say_default(audit: AuditSpec, invocation: Invocation) -> None:
    """Say where choices come from that nobody made, if some of them are about other pictures."""
    if audit.left_out and not any(text.startswith("experiment=") for text in invocation.overrides):
        say(
            "experiment=robot, the default, chooses models, techniques and checks beside pictures; "
            "experiment=none leaves out what it chooses"
        )


def _run_shard(audit: AuditSpec, invocation: Invocation) -> int:
    """Compute a share of a run; it is for who joins the shares to judge."""
    from cnnaudit import own_code
    from cnnaudit.shards import run_shard

    did = run_shard(audit, invocation)
    tell(f"shard {did.shard} of {did.shards}: {did.units} units of work, {did.cells} cells")
    if did.failed:
        tell(f"INCOMPLETE: something failed in {did.failed} of them")
    allowing = [own_code.GIVEN] if own_code.given(invocation.overrides) else []
    joins = shlex.join(["cnnaudit", "report", str(did.run_dir), *allowing])
    tell(f"when all shards are done: {joins}")
    return INCOMPLETE if did.failed else COMPLETE


def _verdict_code(verdict: str) -> int:
    from cnnaudit.verdicts import FAIL, PASS

    return {PASS: COMPLETE, FAIL: FAILED}.get(verdict, UNDECIDED)


def _announce(audit: AuditSpec, outcome: Outcome) -> int:
    """Say what came out of an audit, and return its exit code."""
    for text in outcome.left_out:
        say(f"left out: {text}")
    for sentence in outcome.findings:
        tell(sentence)
    if not outcome.complete:
        tell("INCOMPLETE: some of it failed; the report says what and why")
    for text in outcome.checks:
        tell(f"check {text}")
    if outcome.verdict:
        tell(f"verdict: {outcome.verdict}")
    tell(f"report: {outcome.report}")
    if not outcome.complete:
        return INCOMPLETE
    return _verdict_code(outcome.verdict) if audit.gate else COMPLETE


def _plan(rest: Sequence[str]) -> int:
    explains = "--explain" in rest  # not one of Hydra's
    overrides = [argument for argument in rest if argument != "--explain"]
    return with_hydra(partial(_show_plan, explains), overrides)


def _show_plan(explains: bool, audit: AuditSpec, invocation: Invocation) -> int:
    from cnnaudit.audit import prepare
    from cnnaudit.cost import say_cost, say_work
    from cnnaudit.executors import device_here
    from cnnaudit.image_sets import not_readable
    from cnnaudit.models import choose_device
    from cnnaudit.reasons import reasons
    from cnnaudit.results import count_derived
    from cnnaudit.shards import share_of

    ready = prepare(audit)
    _say_default(audit, invocation)
    for text in ready.audit.left_out:
        say(f"left out: {text}")
    plan = ready.plan
    found = plan.keys - plan.missing
    tell(f"{plan.keys} cells: {found} in the store, {plan.missing} to compute")
    shard, shards = audit.executor.shard, audit.executor.shards
    if shard is not None:
        plan = replace(plan, units=share_of(plan, shards, shard))
        tell(f"shard {shard} of {shards}: {plan.missing} to compute")
    for text in not_readable(ready.image_sets):
        tell(f"  {text}")
    for text in say_work(plan.units):
        tell(f"  {text}")
    for name, (count, lacking) in count_derived(ready).items():
        tell(f"{name}: {count - lacking} in the store, {lacking} to compute")
    if explains:
        for text in reasons(plan.units, ready.store):
            tell(f"  why {text}")
        if not plan.units:
            tell("no cell is to be computed, so there is nothing to explain")
    if plan.units:
        for text in say_cost(ready.audit, plan.units, choose_device(device_here(ready.audit))):
            tell(text)
    if audit.preview is not None:
        from cnnaudit.preview import write_preview

        write_preview(ready.image_sets, audit.preview)
        tell(f"preview: {audit.preview}")
    return COMPLETE


def _layers(audit: AuditSpec, _invocation: Invocation) -> int:
    from cnnaudit.models import inspect_model
    from cnnaudit.models.layers import say_layers

    for spec in audit.models:
        # What the layers are does not depend on the weights, which may be far away.
        facts = inspect_model(replace(spec, weights=None, pretrained=""), audit.seed)
        shape = "×".join(map(str, facts.input))
        tell(f"{spec.name}: {facts.parameters:,} parameters, input {shape}")
        for text in say_layers(facts.layers, facts.roles):
            tell(text)
    return COMPLETE


def _report(rest: Sequence[str]) -> int:
    from cnnaudit.report.writing import write_report
    from cnnaudit.shards import join_shards
    from cnnaudit.stored import SHARDS

    if rest and (Path(rest[0]) / SHARDS).is_dir():
        return _announce(*join_shards(Path(rest[0]), rest[1:]))
    if len(rest) != 1:
        raise AuditError(
            "report takes one run directory, cnnaudit report outputs/robot/…; only of a run in "
            "shards may keys be set"
        )
    tell(f"report: {write_report(Path(rest[0]))}")
    return COMPLETE


def _compare(rest: Sequence[str]) -> int:
    from cnnaudit.comparing.arguments import USAGE, read_arguments

    asked = read_arguments(rest)
    if asked is None:
        print(USAGE, end="")
        return COMPLETE
    from cnnaudit.comparing import Refused, compare
    from cnnaudit.comparing.findings import find_changes
    from cnnaudit.comparing.page import told, write_comparison
    from cnnaudit.report.run import load

    try:
        found = compare(load(asked.before), load(asked.after), asked.pairs, force=asked.force)
    except Refused as error:
        say(f"refused: {error}")
        return REFUSED
    findings = find_changes(found)
    page, *beside = write_comparison(found, findings, asked.page)
    for text in told(found, findings):
        tell(text)
    tell(f"comparison: {page}, with {' and '.join(path.name for path in beside)} beside it")
    return COMPLETE


def _reproduce(rest: Sequence[str]) -> int:
    """Exit with 0 only if every cell agrees."""
    from cnnaudit.reproduce import reproduce
    from cnnaudit.stored import stored_audit

    if not rest:
        raise AuditError("reproduce takes a run directory: cnnaudit reproduce outputs/robot/…")
    run_dir, overrides = Path(rest[0]), rest[1:]
    audit, _ = stored_audit(run_dir, overrides)
    found = reproduce(run_dir, audit)
    for line in found.lines:
        tell(line)
    tell("reproduced" if found.agrees else "NOT reproduced")
    return COMPLETE if found.agrees else ERROR


def _explain(rest: Sequence[str]) -> int:
    from cnnaudit.asking import USAGE, read_arguments

    asked = read_arguments(rest)
    if asked is None:
        print(USAGE, end="")
        return COMPLETE
    return with_hydra(partial(_explain_pictures, asked), asked.overrides)


def _explain_pictures(asked: Asked, audit: AuditSpec, _invocation: Invocation) -> int:
    from cnnaudit.explaining import explain_pictures

    for text in explain_pictures(audit, asked):
        tell(text)
    return COMPLETE


def _init(rest: Sequence[str]) -> int:
    from cnnaudit.starting import start

    tell(start(rest), end="")
    return COMPLETE


def _import(rest: Sequence[str]) -> int:
    from cnnaudit.importing import import_set

    tell(import_set(rest), end="")
    return COMPLETE
