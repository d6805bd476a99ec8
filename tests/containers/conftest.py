"""An engine, and the images that it builds and runs: `make test-containers`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.containers import images
from tests.containers.engine import Engine, scratch
from tests.containers.engine import engine as running_engine
from tests.containers.machine import Mirror, mirror
from tests.containers.rendered import rendered

#: What Debian and Ubuntu call them.
PACKAGES = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap"}


@pytest.fixture(scope="session")
def packages() -> Mirror:
    """Where packages come from; skips the tests that need an engine where there can be none, and says why."""
    if not os.environ.get("NEXTWORD_TEST_CONTAINERS"):
        pytest.skip("takes minutes: make test-containers")
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("an engine of its own needs root, and apt-get for what runs in it")
    missing = [package for program, package in PACKAGES.items() if shutil.which(program, path=_PATH) is None]
    if missing:
        reason = f"not here: apt-get install --no-install-recommends {' '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return mirror()


_PATH = f"/usr/bin:/usr/sbin:{os.environ.get('PATH', '')}"


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """For what is large and need not be looked at afterwards."""
    with scratch("containers") as place:
        yield place


@pytest.fixture(scope="session")
def engine(packages: Mirror, folder: Path) -> Iterator[Engine]:
    """An engine with the base image and the CPU image; skips where none starts, but not in continuous integration."""
    with ExitStack() as stack:
        try:
            it = stack.enter_context(running_engine())
        except AssertionError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no engine starts here: {error}")
        images.make_base(it, packages, folder)
        images.make_cpu(it)
        yield it


@pytest.fixture(scope="session")
def stand_ins(engine: Engine, folder: Path) -> None:
    """Images for the other services of docker-compose.yml; there is none of Grafana in Debian."""
    services = rendered()["services"]
    names = {services[name]["image"] for name in ("redis", "balancer", "prometheus")}
    images.make_stand_ins(engine, names, folder)
