"""docker-compose.yml as Compose understands it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.containers.machine import ROOT

PROFILES = ("gpu", "replicas", "observability")
#: Today's Compose; the engine's package brings docker-compose 1.29.
COMPOSE = Path(sys.executable).parent / "docker-compose"


def rendered(*profiles: str, files: tuple[str, ...] = ("docker-compose.yml",), **variables: str) -> dict[str, Any]:
    """With every variable at its default but `variables`; of all profiles if none is named."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "NEXTWORD_"))}
    options = [word for file in files for word in ("--file", file)]
    options += [word for profile in profiles or PROFILES for word in ("--profile", profile) if profile]
    done = subprocess.run(
        [COMPOSE, *options, "config", "--format", "json"],
        cwd=ROOT,
        env=plain | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
