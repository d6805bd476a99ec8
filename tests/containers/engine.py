"""A Docker engine of the test's own, so that nothing of the machine's is used or left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: The images and what they are made of take about 3 GB.
PLENTY_KIB = 8 << 20


def until(true: Callable[[], object], seconds: float, what: str) -> None:
    """Ask again and again, at most for so long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.05)


class Engine:
    """`dockerd` with everything it makes in `folder`. It has no bridge by default: containers share the machine's
    network, or have one that Compose makes for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The engine's own client first: one that somebody installed for themselves may want plug-ins.
        self._environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("DOCKER_", "COMPOSE_", "NEXTWORD_"))
            },
            "PATH": f"/usr/bin:/usr/sbin:{os.environ['PATH']}",
            "DOCKER_HOST": f"unix://{folder}/socket",
            "DOCKER_CONFIG": str(folder / "client"),
        }
        self._log = (folder / "log").open("wb")
        self._daemon = subprocess.Popen(
            [
                # Should the tests be killed, the engine stops by itself, and its containers with it.
                *(
                    "setpriv",
                    "--pdeathsig",
                    "TERM",
                    "dockerd",
                    "--iptables=false",
                    "--ip6tables=false",
                    "--bridge=none",
                ),
                *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
                *("--pidfile", str(folder / "pid"), "--host", f"unix://{folder}/socket"),
            ],
            env=self._environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        """Until it answers."""
        command = ["docker", "version"]

        def answers() -> bool:
            assert self._daemon.poll() is None, f"dockerd ended: {self.log()}"
            return subprocess.run(command, env=self._environment, capture_output=True, timeout=30).returncode == 0

        until(answers, 60, "dockerd answers")

    def log(self) -> str:
        """The last of what it said."""
        return (self._folder / "log").read_text(errors="replace")[-4000:]

    def docker(self, *arguments: str | Path, timeout: float = 60, **options: Any) -> str:
        """What a `docker` command says; an error if it fails or takes longer than so many seconds.

        `options` are those of `subprocess.run`.
        """
        return self._run(["docker", *map(str, arguments)], timeout, **options).strip()

    def compose(self, project: Path, *arguments: str, timeout: float = 60, **variables: str) -> str:
        """The same for `docker-compose`, on the files in `project`."""
        return self._run(["docker-compose", "--project-name", "nextword", *arguments], timeout, variables, cwd=project)

    def inspect(self, name: str) -> Any:
        """All that the engine knows of a container or an image."""
        return json.loads(self.docker("inspect", name))[0]

    def _run(
        self, command: list[str], timeout: float, variables: Mapping[str, str] | None = None, **options: Any
    ) -> str:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        done = subprocess.run(command, env=self._environment | dict(variables or {}), timeout=timeout, **options)
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            wrong = done.stderr.decode(errors="replace") if done.stderr else ""
            raise AssertionError(f"{' '.join(command)}: {said[-4000:]}{wrong[-4000:]}")
        return said

    def stop(self) -> None:
        """End all containers and the engine."""
        if self._daemon.poll() is None:
            with suppress(AssertionError, subprocess.TimeoutExpired):  # what is left is for the engine itself to end
                containers = self.docker("ps", "--all", "--quiet").split()
                if containers:
                    self.docker("rm", "--force", "--volumes", *containers)
                self.docker("network", "prune", "--force")
            self._daemon.terminate()
            try:
                self._daemon.wait(30)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait(30)
                with suppress(OSError, ValueError):
                    os.kill(int((self._folder / "exec/containerd/containerd.pid").read_text()), signal.SIGKILL)
        self._log.close()


@contextmanager
def engine() -> Iterator[Engine]:
    """One that runs, and leaves nothing."""
    with scratch("engine") as folder:
        started = Engine(folder)
        try:
            started.wait()
            yield started
        finally:
            started.stop()


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A folder that is gone afterwards, and what was mounted in it. It is in memory where there is plenty: tens of
    thousands of files are written to it and removed, which takes minutes on some disks."""
    folder = Path(tempfile.mkdtemp(prefix=f"nextword-{name}-"))  # short: the path of a socket has 108 bytes at most
    available = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    if available is not None and int(available[1]) > PLENTY_KIB:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50%,mode=0755", "tmpfs", folder], timeout=30)  # noqa: S607
    try:
        yield folder
    finally:
        mounts = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in reversed(mounts):
            if mount.is_relative_to(folder):
                subprocess.run(["umount", "--lazy", mount], timeout=30)  # noqa: S607
        shutil.rmtree(folder, ignore_errors=True)
