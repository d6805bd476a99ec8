"""Work that is done again and again on the same arrays, launched as one from the second time on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

from model.cuda.device import Device

log = logging.getLogger("nextword")


class Recordings:
    """One recording a key; there are as many as there are keys, so keys come from a small set."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._recorded: dict[Hashable, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._recorded)

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """`work`, which queues the same each time it is called with this key.

        The first time it runs as it is, for what is needed to run it is loaded then, which cannot be recorded; from
        the second time on only the recording runs. Where none could be made, it always runs as it is. That is no error:
        the work has been done by then, and whoever heard of one would do it again.
        """
        replay = self._recorded.get(key)
        if replay is not None:
            replay()
            return
        work()
        try:
            self._recorded[key] = self._device.record(work)
        except self._device.memory_errors:
            self._recorded[key] = work
        except Exception as error:
            log.warning("not recorded, and slower for it: %s", error)
            self._recorded[key] = work
