"""BENCHMARKS.md: one section a benchmark, each between markers, so that one can be measured anew without the others."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "BENCHMARKS.md"

#: In this order, whichever was measured first.
SECTIONS = (
    "engine",
    "adapting",
    "http",
    "stores",
    "replicas",
    "memory",
    "start",
    "page",
    "agreement",
    "quality",
    "soak",
    "gpu",
)

PREFACE = """\
# Benchmarks

Written by `make bench`, `make bench-page`, `make bench-agreement`, `make bench-gpu` and `make soak`, a section each
time it is measured. Contenders take turns within one run, figures are medians over the turns, and a ratio is the median
of the ratios of each turn: compare the ratios, not the figures of two days.
"""

_PACKAGES = ("numpy", "onnxruntime", "chainer", "torch", "fastapi", "pydantic", "uvicorn", "uvloop", "litserve")
# What decides how fast matrices are multiplied.
_FLAGS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure that was aimed at. value: None, it could not be measured. least: at least `limit`, else at most."""

    text: str
    value: float | None
    limit: float
    least: bool = True
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value is not None and (self.value >= self.limit if self.least else self.value <= self.limit)

    def line(self) -> str:
        """One list item of Markdown: what was aimed at, what was found, how far from it."""
        aim = f"{'at least' if self.least else 'at most'} {number(self.limit)}{self.unit}"
        if self.value is None:
            return f"- {self.text}: aim {aim}; not measured."
        found = f"**{number(self.value)}{self.unit}**"
        if self.met:
            return f"- {self.text}: {found}; aim {aim}: met."
        return f"- {self.text}: {found}; aim {aim}: **missed** by {number(abs(self.value - self.limit))}{self.unit}."


def number(value: float) -> str:
    """Three significant digits, thousands with commas.

    >>> number(0.123456), number(12.345), number(1234.5), number(0.0), number(0.00001234)
    ('0.123', '12.3', '1,234', '0', '1.2e-05')
    """
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.001:
        return f"{value:.1e}"
    if size >= 100:
        return f"{value:,.0f}"
    text = f"{value:.{2 if size >= 1 and size < 10 else 1 if size >= 10 else 3}f}"
    return text.rstrip("0").rstrip(".")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def replaced(document: str, name: str, body: str) -> str:
    """`document` with the section `name` replaced, or put where it belongs among `SECTIONS`; the others stay.

    Raises ValueError for a name that is not in `SECTIONS`.
    """
    if name not in SECTIONS:
        raise ValueError(f"no section {name!r}; there are {', '.join(SECTIONS)}")
    found = dict(re.findall(r"<!-- (\w+):begin -->\n(.*?)\n<!-- \1:end -->", document, re.DOTALL))
    found[name] = body.strip()
    present = [section for section in SECTIONS if section in found]
    blocks = [f"<!-- {section}:begin -->\n{found[section]}\n<!-- {section}:end -->\n" for section in present]
    return "\n".join([PREFACE, *blocks])


def write(name: str, body: str, file: Path = FILE) -> None:
    """Put a section into BENCHMARKS.md."""
    document = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(replaced(document, name, body), encoding="utf-8")


def circumstances(command: str, packages: Sequence[str] = _PACKAGES, *, timed: bool = True) -> str:
    """Where, when, with what and how a section was measured: Markdown list items. timed: what else ran matters."""
    others = _others_load() if timed else None
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        f"- Measured {when} by `{command}`, nextword {_revision()}",
        f"- {_processor()}, {len(os.sched_getaffinity(0))} cores, {_memory_gib():.0f} GiB, {platform.system()} "
        f"{platform.release()}; {' '.join(_flags()) or 'no flags known'}",
        f"- Python {platform.python_version()}, {', '.join(_versions(packages))}",
    ]
    if others is not None:
        warning = " **Something else was running: the figures are too low.**" if others > 0.1 else ""
        lines.append(f"- Other processes used {others:.2f} cores when it began.{warning}")
    return "\n".join(lines)


def _versions(packages: Sequence[str]) -> list[str]:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return found


def _revision() -> str:
    try:
        version = importlib.metadata.version("nextword")
    except importlib.metadata.PackageNotFoundError:  # run from a copy of the sources
        version = "not installed"
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return f"{version} ({subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()})"
    except (OSError, subprocess.CalledProcessError):
        return version


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _flags() -> list[str]:
    present = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [flag for flag in _FLAGS if flag in present]


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _others_load() -> float | None:
    """How many cores are busy while this process waits half a second."""
    try:
        before = _busy_ticks()
        time.sleep(0.5)
        return (_busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / 0.5
    except OSError:
        return None


def _busy_ticks() -> int:
    fields = list(map(int, Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]))
    return sum(fields) - fields[3] - fields[4]  # idle and waiting for a disk
