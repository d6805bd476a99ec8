"""`nextword serve`."""

from __future__ import annotations

import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from app.settings import ENV_PREFIX, Settings, SettingsError, load

if TYPE_CHECKING:
    from app.security import Keys

log = logging.getLogger("nextword")

#: How long a thread may keep the interpreter from another that wants it. The engine needs it for moments between two
#: products, the event loop has it for milliseconds under load: with Python's 5 ms, one core waits for the other.
SWITCH_SECONDS = 5e-5

#: Exit status when the service cannot start: settings, model directory, runtime, address.
CANNOT_START = 2

#: Exit status when a second signal came before what was in hand was finished.
STOPPED_SHORT = 1


def _option(name: str) -> Any:
    field = Settings.model_fields[name]
    # Paths would say where this copy of the project lies.
    default = "" if field.default is None or isinstance(field.default, Path) else f", default: {field.default}"
    flags = f"/--no-{name.replace('_', '-')}" if field.annotation is bool else ""
    return typer.Option(
        f"--{name.replace('_', '-')}{flags}",
        help=f"{field.description} [env: {ENV_PREFIX}{name.upper()}{default}]",
        show_default=False,
    )


def command(
    host: Annotated[str | None, _option("host")] = None,
    port: Annotated[int | None, _option("port")] = None,
    model: Annotated[Path | None, _option("model")] = None,
    runtime: Annotated[str | None, _option("runtime")] = None,
    threads: Annotated[int | None, _option("threads")] = None,
    store: Annotated[str | None, _option("store")] = None,
    store_password: Annotated[str | None, _option("store_password")] = None,
    snapshot: Annotated[Path | None, _option("snapshot")] = None,
    max_sessions: Annotated[int | None, _option("max_sessions")] = None,
    session_ttl_seconds: Annotated[float | None, _option("session_ttl_seconds")] = None,
    max_session_ttl_seconds: Annotated[float | None, _option("max_session_ttl_seconds")] = None,
    session_key: Annotated[str | None, _option("session_key")] = None,
    max_batch: Annotated[int | None, _option("max_batch")] = None,
    max_queue: Annotated[int | None, _option("max_queue")] = None,
    max_body_bytes: Annotated[int | None, _option("max_body_bytes")] = None,
    max_words: Annotated[int | None, _option("max_words")] = None,
    retry_after_seconds: Annotated[int | None, _option("retry_after_seconds")] = None,
    drain_seconds: Annotated[float | None, _option("drain_seconds")] = None,
    log_level: Annotated[str | None, _option("log_level")] = None,
    log_format: Annotated[str | None, _option("log_format")] = None,
    access_log: Annotated[bool | None, _option("access_log")] = None,
    api_keys: Annotated[str | None, _option("api_keys")] = None,
    api_keys_file: Annotated[Path | None, _option("api_keys_file")] = None,
    rate_limit: Annotated[float | None, _option("rate_limit")] = None,
    rate_burst: Annotated[int | None, _option("rate_burst")] = None,
    max_requests_per_key: Annotated[int | None, _option("max_requests_per_key")] = None,
    max_sessions_per_key: Annotated[int | None, _option("max_sessions_per_key")] = None,
    max_session_words: Annotated[int | None, _option("max_session_words")] = None,
    adapt: Annotated[bool | None, _option("adapt")] = None,
    adapt_size: Annotated[int | None, _option("adapt_size")] = None,
    adapt_theta: Annotated[float | None, _option("adapt_theta")] = None,
    adapt_weight: Annotated[float | None, _option("adapt_weight")] = None,
    max_adapting_sessions: Annotated[int | None, _option("max_adapting_sessions")] = None,
    history_bytes: Annotated[int | None, _option("history_bytes")] = None,
    metrics: Annotated[str | None, _option("metrics")] = None,
    cors_origins: Annotated[str | None, _option("cors_origins")] = None,
) -> None:
    """Serve a model over HTTP.

    The model is loaded once; each session's state is kept, so that a request continues where the one before ended.
    Every option can be given as an environment variable, too; the option wins. What is in neither is read from
    /run/secrets/nextword_OPTION if there is such a file, as containers are given secrets. Traces go where
    OpenTelemetry's own variables say (OTEL_EXPORTER_OTLP_ENDPOINT and so on; they need nextword[otel]).

    Try: nextword serve --port 9000, then open http://127.0.0.1:9000 or
    curl -d '{"text": "The weather is"}' http://127.0.0.1:9000/v1/predict
    """
    given = {name: value for name, value in locals().items() if value is not None}
    try:
        settings = load(**given)
    except SettingsError as error:
        _refuse(str(error))
    serve(settings)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is in hand, and return; a second one stops at once.

    Exits with 2 if it cannot start, with 1 if it was stopped at once.
    """
    # Process 1 of a container is ended by no signal that it has no handler for; uvicorn's come with the event loop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Imported here, so that `nextword serve --help` and a wrong setting are answered at once.
    from app import logs, spans
    from app.main import create_app
    from app.security import KeysError
    from app.stores.base import StoreRefusedError
    from model.artifact import ArtifactError

    logs.configure(settings.log_format, settings.log_level)
    try:
        app = create_app(settings)
    except (ArtifactError, KeysError, StoreRefusedError) as error:
        _refuse(str(error))
    listener = _listen(settings.host, settings.port)
    if not app.keys.configured and not _is_loopback(settings.host):
        log.critical(
            "NO KEYS: whoever can reach %s can use this service and read /metrics; "
            "set --api-keys-file, or --host 127.0.0.1",
            settings.host,
        )
    signal.signal(signal.SIGHUP, lambda *_: _reload(app.keys))
    sys.setswitchinterval(SWITCH_SECONDS)
    if settings.access_log:
        app.gate.log = logs.RequestLog(settings.log_format)
    app.gate.spans = spans.configured()
    forced = True
    try:
        failure, forced = _run(app, settings, listener)
    finally:
        if app.gate.log is not None:
            app.gate.log.close()
        if app.gate.spans is not None and not forced:
            app.gate.spans.close()
    if forced:
        raise SystemExit(STOPPED_SHORT)
    if failure is not None:
        _refuse(f"cannot run the model: {failure}")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (
            os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        )  # without the address again
        _refuse(f"cannot listen on {host}:{port}: {reason}; choose another with --host and --port")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reload(keys: Keys) -> None:
    from app.security import KeysError

    try:
        keys.reload()
    except KeysError as error:
        log.error("the keys stay as they were: %s", error)
    else:
        log.info("%d keys are known now", len(keys))


def _run(app: Any, settings: Settings, listener: socket.socket) -> tuple[BaseException | None, bool]:
    """What the model could not be run for, and whether a second signal ended it all before it was done."""
    import uvicorn

    from app.connection import Connection
    from app.scheduler import Scheduler, Status

    scheduler: Scheduler = app.state.service.scheduler

    class Server(uvicorn.Server):
        """Finishes what is in hand before it stops listening, so that balancers can see that it is not ready."""

        stopping_since: float | None = None
        announced = False

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
            if self.stopping_since is not None:
                self.should_exit = self.force_exit = True
            self.stopping_since = time.monotonic()

        async def on_tick(self, counter: int) -> bool:
            if scheduler.failure is not None:
                self.should_exit = True
            elif scheduler.status is Status.READY and not self.announced:
                self.announced = True
                # What is there now stays: the collector need not look through it again and again.
                gc.collect()
                gc.freeze()
                host, port = listener.getsockname()[:2]
                name = f"[{host}]" if ":" in host else host
                log.info("ready: %s (%s) on http://%s:%d", *_served(app), name, port)
            if self.stopping_since is not None:
                scheduler.refuse()
                late = time.monotonic() - self.stopping_since > settings.drain_seconds
                if late or not scheduler.in_flight:
                    self.should_exit = True
            return await super().on_tick(counter)

    server = Server(
        uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            access_log=False,
            # Nobody here asks where a request came from, so nobody need believe what its headers say about that.
            proxy_headers=False,
            lifespan="on",
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            ws="none",
        )
    )
    server.run(sockets=[listener])
    return scheduler.failure, server.force_exit


def _served(app: Any) -> tuple[str, str]:
    service = app.state.service
    return service.artifact.id, f"{service.scheduler.runtime.name} on {service.scheduler.runtime.device}"


def _refuse(message: str) -> NoReturn:
    for line in message.splitlines():
        print(f"nextword: {line}", file=sys.stderr)
    raise SystemExit(CANNOT_START)
