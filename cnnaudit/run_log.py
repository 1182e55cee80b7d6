"""``run.log``: what the package says while it works, and the warnings of others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cnnaudit.printable import printable


class _Printable(logging.Formatter):
    """Logs are read on terminals, which names in them must not steer."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _LogFile(logging.FileHandler):
    """What a full disk has no room for is lost: what must not be lost stops the run by itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Print no traceback for each line."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write what the package logs into a file, and warnings too: torch names what may vary."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger("cnnaudit"), logging.getLogger("py.warnings")]
    for logger in loggers:
        logger.setLevel(logging.INFO)  # Hydra leaves the root's level where it hears no warning
        logger.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
