"""`python -m tests.benchmarks`: measure, print, and write BENCHMARKS.md."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.harness import BenchmarkError
from tests.benchmarks.soak import SECONDS as SOAK_SECONDS

#: What `all` measures, in this order.
ALL = ("engine", "adapting", "http", "stores", "replicas", "memory", "start")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("benchmark", choices=[*report.SECTIONS, "all"], help=f"all: {', '.join(ALL)}")
    parser.add_argument("--model", type=Path, help="a model directory instead of the one that ships")
    parser.add_argument("--data", type=Path, help="agreement, gpu: the text to compare on; quality: the folder")
    parser.add_argument("--words", type=int, default=50_000, help="agreement, quality: words of a text (50000)")
    parser.add_argument("--threads", type=_threads, help="engine, adapting: for example 1,2 (1 and all cores, up to 4)")
    parser.add_argument("--sessions", type=int, default=100_000, help="memory: live sessions (100000)")
    parser.add_argument(
        "--seconds", type=float, default=SOAK_SECONDS, help="soak: how long (600); a shorter one is not written"
    )
    parser.add_argument("--million", action="store_true", help="memory: a million live sessions as well; minutes more")
    parser.add_argument("--profile", action="store_true", help="http: where the server's time goes; needs py-spy")
    parser.add_argument("--quick", action="store_true", help="a try of a few seconds a part; nothing is written")
    parser.add_argument("--output", type=Path, default=report.FILE, help="the file to write (BENCHMARKS.md)")
    return parser


def _threads(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _benchmarks(options: argparse.Namespace, command: str) -> dict[str, Callable[[], str]]:
    cores = len(os.sched_getaffinity(0))
    threads = options.threads or tuple(sorted({1, min(cores, 4)}))

    def engine() -> str:
        from tests.benchmarks import engine

        return engine.run(command, quick=options.quick, model=options.model, threads=threads)

    def adapting() -> str:
        from tests.benchmarks import adapting

        return adapting.run(command, quick=options.quick, model=options.model, threads=threads)

    def http() -> str:
        from tests.benchmarks import http

        return http.run(command, quick=options.quick, model=options.model, profile=options.profile)

    def stores() -> str:
        from tests.benchmarks import stores

        return stores.run(command, quick=options.quick, model=options.model)

    def replicas() -> str:
        from tests.benchmarks import replicas

        return replicas.run(command, quick=options.quick, model=options.model)

    def memory() -> str:
        from tests.benchmarks import memory

        counts = [5_000] if options.quick else [options.sessions, *([1_000_000] if options.million else [])]
        return memory.run(command, model=options.model, counts=counts)

    def start() -> str:
        from tests.benchmarks import start

        return start.run(command, quick=options.quick, model=options.model)

    def page() -> str:
        from tests.benchmarks import page

        return page.run(command, quick=options.quick, model=options.model)

    def agreement() -> str:
        from tests.benchmarks import agreement

        words = min(options.words, 1_000) if options.quick else options.words
        return agreement.run(command, model=options.model, data=options.data, words=words)

    def soak() -> str:
        from tests.benchmarks import soak

        seconds = min(options.seconds, 20) if options.quick else options.seconds
        return soak.run(command, model=options.model, seconds=seconds)

    def quality() -> str:
        from tests.benchmarks import quality

        words = min(options.words, 500) if options.quick else options.words
        return quality.run(command, chosen=options.model, data=options.data, words=words)

    def gpu() -> str:
        from tests.benchmarks import gpu

        write = None if options.quick else partial(report.write, "gpu", file=options.output)
        return gpu.run(command, quick=options.quick, model=options.model, data=options.data, write=write)

    return {
        "engine": engine,
        "adapting": adapting,
        "http": http,
        "stores": stores,
        "replicas": replicas,
        "memory": memory,
        "start": start,
        "page": page,
        "agreement": agreement,
        "soak": soak,
        "quality": quality,
        "gpu": gpu,
    }


def main() -> None:
    options = _parser().parse_args()
    command = shlex.join(["python", "-m", "tests.benchmarks", *sys.argv[1:]])
    benchmarks = _benchmarks(options, command)
    for name in ALL if options.benchmark == "all" else [options.benchmark]:
        try:
            section = benchmarks[name]()
        except BenchmarkError as error:
            sys.exit(f"{name}: {error}")
        print(section, end="\n\n", flush=True)
        is_try = options.quick or (name == "soak" and options.seconds < SOAK_SECONDS)
        if not is_try:
            report.write(name, section, options.output)


if __name__ == "__main__":
    main()
