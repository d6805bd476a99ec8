"""The machine that builds: where its packages come from, and whether anything of it was left in what is built."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
#: Those that everybody has.
_PUBLIC_CERTIFICATES = Path("/usr/share/ca-certificates")

#: Hosts that anybody may name.
_PUBLIC = re.compile(r"(^|\.)(debian\.org|ubuntu\.com|pypi\.org|pythonhosted\.org|localhost)$")
_PEM_LINE = re.compile(rb"[A-Za-z0-9+/]{64}(?=\r?\n)")


@dataclass(frozen=True)
class Mirror:
    """Where the machine's own distribution comes from."""

    url: str
    suite: str
    components: tuple[str, ...]

    @property
    def source(self) -> str:
        """As a line of a sources.list."""
        return f"deb {self.url} {self.suite} {' '.join(self.components)}\n"


def mirror() -> Mirror:
    """The distribution itself among apt's sources: neither its updates nor somebody's additions to it."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    command = ["apt-get", "indextargets", "--format", "$(SITE)|$(RELEASE)|$(COMPONENT)", "Created-By: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        url, release, component = line.split("|")
        if release == suite and component in ("main", "universe"):
            found.setdefault(url.rstrip("/"), []).append(component)
    if not found:
        raise LookupError(f"apt has no source of {suite}: {lines}")
    url, components = next(iter(found.items()))
    return Mirror(url, suite, tuple(dict.fromkeys(components)))


def pip_configuration() -> str:
    """What pip needs to be told in a container of this machine: certificates, and its index if it has its own."""
    lines = ["[global]"]
    if CERTIFICATES.exists():
        lines.append(f"cert = {CERTIFICATES}")
    for option in ("index-url", "extra-index-url", "trusted-host"):
        value = " ".join(part for part in _pip(option).split() if not part.startswith(("/", "file:")))
        if value:
            lines.append(f"{option} = {value}")
    return "\n".join(lines) + "\n"


def _pip(option: str) -> str:
    variable = os.environ.get("PIP_" + option.replace("-", "_").upper())
    if variable is not None:
        return variable
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{option}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()


def _pem_lines(path: Path) -> set[bytes]:
    return set(_PEM_LINE.findall(path.read_bytes())) if path.exists() else set()


class Traces:
    """What would give this machine away: its package sources and proxies, its certificates, where its checkout lies."""

    def __init__(self, of: Mirror) -> None:
        addresses = [of.url, *_pip("index-url").split(), *_pip("extra-index-url").split()]
        addresses += [value for name, value in os.environ.items() if name.lower().endswith(("_proxy", "_registry"))]
        hosts = {urlsplit(address if "//" in address else f"//{address}").hostname for address in addresses}
        self._words = {host.encode() for host in hosts if host and "." in host and not _PUBLIC.search(host)}
        self._words |= {bytes(ROOT) + b"/"}
        own = _pem_lines(CERTIFICATES)
        for public in _PUBLIC_CERTIFICATES.rglob("*.crt"):
            own -= _pem_lines(public)
        self._certificates = own

    def found_in(self, content: bytes) -> set[bytes]:
        """Those that this content holds."""
        words = {word for word in self._words if word in content}
        return words | (self._certificates & set(_PEM_LINE.findall(content)))
