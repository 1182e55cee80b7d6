"""A batch in parts that the memory takes, and image by image where one of them makes it fail."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from cnnaudit.numerics import is_out_of_memory
from cnnaudit.types import ANY_ERROR, AuditError, Batch

Work = Callable[[Batch], None]
Fail = Callable[[str, str], None]  # called with an item's id and the reason

log = logging.getLogger(__name__)


class Fitting:
    """Knows how many images the memory takes at once: found once, for all batches of a model."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size  # as far as is known
        self._said: set[str] = set()

    def run(self, batch: Batch, work: Work, fail: Fail) -> None:
        """Have a batch worked on, all or none of each part; fail the images that nothing helps.

        Raises the AuditErrors of `work`. Whatever else it raises concerns an image, not the audit.
        """
        if len(batch) > self.batch_size:
            return self._run_parts(batch, self.batch_size, work, fail)
        try:
            return work(batch)
        except AuditError:
            raise
        except ANY_ERROR as error:
            short, reason = is_out_of_memory(error), f"{type(error).__name__}: {error}"
            if len(batch) == 1:
                log.error("%s: %s", batch.ids[0], reason, exc_info=reason not in self._said)
                self._said.add(reason)
                return fail(batch.ids[0], reason)
        # Only here, since the error holds what had been computed when it was raised.
        if not short:
            log.warning("a batch of %d failed (%s); image by image", len(batch), reason)
            return self._run_parts(batch, 1, work, fail)
        log.warning("out of memory with a batch of %d; halving it", len(batch))
        torch.cuda.empty_cache()
        self.batch_size = len(batch) // 2
        return self.run(batch, work, fail)

    def _run_parts(self, batch: Batch, size: int, work: Work, fail: Fail) -> None:
        for start in range(0, len(batch), size):
            self.run(batch.part(start, start + size), work, fail)
