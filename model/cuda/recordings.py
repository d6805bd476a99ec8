"""Work that is done again and again on the same arrays, launched as one from the second time on."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from model.cuda.device import Device


class Recordings:
    """One recording a key; there are as many as there are keys, so keys come from a small set."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._done: set[Hashable] = set()
        self._recorded: dict[Hashable, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._recorded)

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """`work`, which queues the same each time it is called with this key.

        The first time it runs as it is, for what is needed to run it is then loaded, which cannot be recorded; the
        second time it is recorded, and from then on only the recording runs.
        """
        replay = self._recorded.get(key)
        if replay is None:
            if key not in self._done:
                self._done.add(key)
                work()
                return
            try:
                replay = self._recorded[key] = self._device.record(work)
            except self._device.memory_errors:
                work()
                return
        replay()
