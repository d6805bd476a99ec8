"""Between the event loop and the engine thread, which owns the runtime.

Everything crosses twice: a job goes in through a queue, and every tick sends all jobs that are over back with one
call. The queue is what the idle engine sleeps on, so a job cannot arrive unnoticed.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from time import perf_counter

from app.engine import Engine, Job, RuntimeFailedError
from app.states import States, StatesFullError
from model.runtimes.base import Runtime

log = logging.getLogger("nextword")

#: How often a runtime that failed is tried again, and for how long before it is given up (`Scheduler.lost`).
PROBE_SECONDS = 5.0
LOST_SECONDS = 60.0

#: How long the engine thread may take to end.
STOP_SECONDS = 5.0


class Status(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"


class UnavailableError(RuntimeError):
    """The service takes no work now; the client may try again later."""


class Scheduler:
    """Runs jobs from the event loop, many at a time.

    `load` is called on the engine thread, which is the only one that ever uses the runtime. `admit` and `release`
    count the requests that are being served, from before their first byte is read until their answer is written.
    """

    def __init__(
        self,
        load: Callable[[], Runtime],
        *,
        unknown_id: int,
        start_id: int | None,
        slots: int,
        max_batch: int,
        max_queue: int,
        spare_bytes: int = 0,
    ) -> None:
        self.status = Status.STARTING
        self.loaded = False  # from when on there are `states`, a `runtime` and an `engine`
        self.failure: BaseException | None = None
        self.failed_at: float | None = None  # by `perf_counter`, while the runtime does not work
        self.in_flight = 0
        self.states: States
        self.runtime: Runtime
        self.engine: Engine
        self._load = load
        self._unknown_id = unknown_id
        self._start_id = start_id
        self._slots = slots
        self._spare_bytes = spare_bytes
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._joining: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._gathered: list[Job] = []
        self._loop: asyncio.AbstractEventLoop
        self._started: asyncio.Event
        self._quiet: asyncio.Event
        self._thread: threading.Thread
        self._prepare: Callable[[], Awaitable[None]] | None = None
        self._preparing: asyncio.Task[None] | None = None

    # On the event loop.

    def start(self, prepare: Callable[[], Awaitable[None]] | None = None) -> None:
        """Begin to load the runtime; `started` waits for the end of that.

        `prepare` is done when the states are there, and before any work is taken.
        """
        self._prepare = prepare
        self._loop = asyncio.get_running_loop()
        self._started = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._thread = threading.Thread(target=self._work, name="nextword-engine", daemon=True)
        self._thread.start()

    async def started(self) -> None:
        """Wait until the runtime is loaded and warm, or has failed to. Raises what it failed with."""
        await self._started.wait()
        if self.failure is not None:
            raise self.failure

    @property
    def reason(self) -> str:
        """Why there is no work taken, for one who asks while the status is not READY."""
        return _REASONS.get(self.status, self.status.value)

    @property
    def lost(self) -> bool:
        """Whether the runtime has failed for so long that only another process helps: after some errors of a GPU, every
        call fails until the process ends."""
        return self.failed_at is not None and perf_counter() - self.failed_at >= LOST_SECONDS

    def admit(self) -> None:
        """Count one request more. Raises `UnavailableError` before any work is done for it."""
        if self.status is not Status.READY:
            raise UnavailableError(self.reason)
        if self.in_flight >= self._max_queue:
            raise UnavailableError(f"{self.in_flight} requests are being served, which is the most at once")
        if not self.in_flight:
            self._quiet.clear()
        self.in_flight += 1

    def release(self) -> None:
        """One request less."""
        self.in_flight -= 1
        if not self.in_flight:
            self._quiet.set()

    async def run(self, job: Job) -> None:
        """Have `job` computed. When this returns, `job.slot` is the caller's; when it raises, it is free again."""
        job.queued_at = perf_counter()
        job.future = self._loop.create_future()
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(job)
        try:
            await job.future
        except BaseException:
            # The engine may be writing to the slot this moment. It is taken back when the engine has let go of it.
            job.abandoned = True
            if job.delivered:
                self.states.free(job.slot)
            raise

    def take_state(self) -> int:
        """A slot for the states of a job. Raises `UnavailableError` when there is none."""
        try:
            return self.states.take()
        except StatesFullError as error:
            raise UnavailableError(str(error)) from error

    def free_state(self, slot: int) -> None:
        """Take back a slot that nobody points at any more."""
        self.states.free(slot)

    def refuse(self) -> None:
        """Take no more work; that in hand goes on."""
        self._turn(Status.READY, Status.DRAINING)

    async def drain(self, seconds: float) -> bool:
        """Take no more work and wait for that in hand; False if it took longer than `seconds`."""
        self.refuse()
        try:
            await asyncio.wait_for(self._quiet.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End the engine thread; jobs still there fail."""
        self.status = Status.STOPPED
        self._joining.put(None)
        # A runtime that hangs must not keep the process alive.
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)

    def _hand_over(self) -> None:
        # All jobs of one round of the event loop go together: the engine is woken once, and begins with all of them.
        self._joining.put(self._gathered)
        self._gathered = []

    def _deliver(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            future = job.future
            if job.abandoned or future.done():
                self.states.free(job.slot)
            elif job.error is not None:
                self.states.free(job.slot)
                future.set_exception(job.error)
            else:
                job.delivered = True
                future.set_result(None)

    def _loaded(self, failure: BaseException | None) -> None:
        self.loaded = failure is None
        if failure is None and self._prepare is not None:
            self._preparing = self._loop.create_task(self._ready_when_prepared(self._prepare()))
        else:
            self._ready(failure)

    async def _ready_when_prepared(self, preparing: Awaitable[None]) -> None:
        try:
            await preparing
        except Exception as error:
            self._ready(error)
        else:
            self._ready(None)

    def _ready(self, failure: BaseException | None) -> None:
        self.failure = failure
        if self.status is Status.STARTING:
            self.status = Status.READY if failure is None else Status.FAILED
        self._started.set()

    def _turn(self, before: Status, after: Status) -> None:
        if self.status is before:
            self.status = after

    # On the engine thread.

    def _work(self) -> None:
        try:
            self.runtime = self._load()
            self.states = States(self.runtime, self._slots, self._spare_bytes)
            self.engine = Engine(
                self.runtime,
                self.states,
                unknown_id=self._unknown_id,
                start_id=self._start_id,
                max_batch=self._max_batch,
            )
            self.engine.warm_up()
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._loaded, error)
            return
        self._loop.call_soon_threadsafe(self._loaded, None)
        while self._gather():
            self._step()
        over = self.engine.give_up(UnavailableError(_REASONS[Status.STOPPED]))
        self._loop.call_soon_threadsafe(self._deliver, over)

    def _step(self) -> None:
        """One step, and everybody told of it. When this is left, nothing is held of the jobs that are over: small as
        they are, they would keep the memory that lies around them from being given back as long as the thread sleeps.
        """
        try:
            over = self.engine.tick()
        except BaseException as error:
            over = self._fail(error)
        heard = self.engine.heard
        if heard:
            self.engine.heard = []
            self._loop.call_soon_threadsafe(_set, heard)
        if over:
            self._loop.call_soon_threadsafe(self._deliver, over)

    def _gather(self) -> bool:
        """Let everybody who is waiting join; sleep while there is nobody. False: it is over."""
        joining, engine = self._joining, self.engine
        while engine.idle or not joining.empty():
            jobs = joining.get()
            if jobs is None:
                return False
            for job in jobs:
                engine.join(job)
        return True

    def _fail(self, error: BaseException) -> list[Job]:
        """The runtime is at fault: tell everybody, then wait until it works again."""
        log.error("the engine failed, the service is not ready: %s", error, exc_info=error)
        failure = error if isinstance(error, RuntimeFailedError) else RuntimeFailedError(str(error))
        self.failed_at = perf_counter()
        self._loop.call_soon_threadsafe(self._turn, Status.READY, Status.FAILED)
        self._loop.call_soon_threadsafe(self._deliver, self.engine.give_up(failure))
        while True:
            try:
                jobs = self._joining.get(timeout=PROBE_SECONDS)
            except queue.Empty:
                if self.engine.well():
                    self.failed_at = None
                    self._loop.call_soon_threadsafe(self._turn, Status.FAILED, Status.READY)
                    log.warning("the engine works again")
                    return []
            else:
                if jobs is None:
                    self._joining.put(None)
                    return []
                for job in jobs:
                    job.error = failure
                self._loop.call_soon_threadsafe(self._deliver, jobs)


def _set(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        event.set()


_REASONS = {
    Status.STARTING: "the model is being loaded",
    Status.DRAINING: "the service is shutting down",
    Status.FAILED: "the runtime failed",
    Status.STOPPED: "the service has stopped",
}
