"""Images where no registry can be reached: a base made by debootstrap, and Debian's packages in the place of the images
that docker-compose.yml names."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.containers.engine import Engine
from tests.containers.machine import CERTIFICATES, ROOT, Mirror, pip_configuration

BASE = "localhost/nextword-base"
#: The same and what this machine needs to fetch packages. No image that is looked at is built on it.
BUILD = "localhost/nextword-build"
CPU = "nextword:cpu"


def make_base(engine: Engine, mirror: Mirror, folder: Path) -> None:
    """`BASE`, about what python:slim is without pip, and `BUILD`."""
    root = folder / "root"
    command = ["debootstrap", "--variant=minbase", f"--components={','.join(mirror.components)}"]
    command += ["--include=python3,python3-venv", mirror.suite, str(root), mirror.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    # What debootstrap took over from this machine, and what it wrote about the way here.
    for name in ("etc/apt/sources.list", "etc/resolv.conf", "etc/hostname"):
        (root / name).unlink(missing_ok=True)
    for name in ("var/log", "var/cache/apt", "var/lib/apt/lists", "debootstrap"):
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "var/log").mkdir()
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    with subprocess.Popen(["tar", "--numeric-owner", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:  # noqa: S607
        engine.docker("import", "-", BASE, stdin=tar.stdout, timeout=120)
    shutil.rmtree(root)

    context = folder / "build"
    context.mkdir()
    (context / "pip.conf").write_text(pip_configuration())
    (context / "sources.list").write_text(mirror.source)
    lines = [f"FROM {BASE}", "COPY pip.conf /etc/pip.conf", "COPY sources.list /etc/apt/sources.list"]
    if CERTIFICATES.exists():
        shutil.copyfile(CERTIFICATES, context / "certificates")
        lines.append(f"COPY certificates {CERTIFICATES}")
    (context / "Dockerfile").write_text("\n".join(lines))
    engine.docker("build", "--tag", BUILD, context)


def make_cpu(engine: Engine) -> None:
    """`CPU`, the image that docker/Dockerfile describes."""
    proxies = [name for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ]
    arguments = [f"BASE_IMAGE={BASE}", f"BUILD_IMAGE={BUILD}", *proxies]
    options = [word for argument in arguments for word in ("--build-arg", argument)]
    engine.docker(
        "build", "--network=host", *options, "--file", ROOT / "docker/Dockerfile", "--tag", CPU, ROOT, timeout=400
    )


def make_stand_ins(engine: Engine, names: Iterable[str], folder: Path) -> None:
    """Redis, HAProxy and Prometheus under `names`, with the users, places and commands of the official images."""
    context = folder / "stand-ins"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {BUILD}\n"
        "RUN apt-get update && apt-get install --yes --no-install-recommends redis-server haproxy prometheus wget"
        " && install -d -o redis /data && install -d -o nobody /prometheus\n"
    )
    engine.docker("build", "--network=host", "--tag", "stand-in", context, timeout=300)
    for name in names:
        if name.startswith("prom/"):
            (context / "Dockerfile").write_text('FROM stand-in\nENTRYPOINT ["prometheus"]\n')
            engine.docker("build", "--tag", name, context)
        else:
            engine.docker("tag", "stand-in", name)
