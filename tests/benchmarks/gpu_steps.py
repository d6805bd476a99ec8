"""A contender of the GPU benchmark, a process of its own: `python -m tests.benchmarks.gpu_steps NAME MODEL`.

NAME is cuda, cuda-float32 or torch; ceilings: what the device does at the best; or agreement. A step is what one word
costs a batch of sequences: words go to the device, every sequence consumes one, and their ten likeliest next words come
back.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model.artifact import Artifact
from model.runtimes.base import Ids
from tests.benchmarks.harness import Answer, MissingError, answer_questions, median

TOP_K = 10
#: The largest batch that is asked about.
MOST = 4096


def runtime_steps(name: str, artifact: Artifact) -> Callable[[int], Callable[[Ids], object]]:
    """Ours, as the service's engine calls it: from slot to slot, and one more word's log-probability."""
    import model.runtimes
    from model.runtimes.slab import slab_of

    slab = slab_of(model.runtimes.load(artifact, name), 2 * MOST + 1)

    def begin(batch: int) -> Callable[[Ids], object]:
        before, after = np.zeros(batch, np.int64), np.arange(1, batch + 1)
        spare, unknown = after + MOST, np.zeros((batch, 1), np.int64)

        def step(ids: Ids) -> object:
            nonlocal before, after, spare
            slab.advance(ids, before, after)
            projection = slab.project_words(after, unknown, top_k=TOP_K)
            before, after, spare = after, spare, after
            return projection

        return step

    return begin


def torch_steps(artifact: Artifact) -> Callable[[int], Callable[[Ids], object]]:
    try:
        from tests.benchmarks.peers.torch_cuda import TorchSteps
    except ModuleNotFoundError as error:
        raise MissingError(f"{error.name} is not installed") from error
    return TorchSteps(artifact, TOP_K).begin


def measured(begin: Callable[[int], Callable[[Ids], object]], vocabulary_size: int) -> Callable[..., Answer]:
    """Answers with the median step of a while, seconds."""
    draw = np.random.default_rng(2)

    def answer(*, batch: int, seconds: float) -> Answer:
        words = draw.integers(0, vocabulary_size, (16, batch))
        step = begin(batch)
        for ids in words[:4]:
            step(ids)
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while len(taken) < 10 or time.perf_counter() < end:
            ids = words[len(taken) % len(words)]
            began = time.perf_counter()
            step(ids)
            taken.append(time.perf_counter() - began)
        return {"seconds": median(taken)}

    return answer


def ceilings() -> Callable[..., Answer]:
    """FLOP/s of large products of random numbers, bytes/s of a copy (read and written), seconds to launch and wait."""
    from model.cuda.device import cupy_device

    device = cupy_device(0)
    xp = device.xp

    def timed(work: Callable[[], None], times: int) -> float:
        for _ in range(3):
            work()
        device.mark()()
        began = time.perf_counter()
        for _ in range(times):
            work()
        device.mark()()
        return (time.perf_counter() - began) / times

    def product(dtype: type, size: int, *, tf32: bool = False) -> float:
        a, b = (xp.random.random_sample((size, size)).astype(dtype) - dtype(0.5) for _ in "ab")
        out = xp.empty((size, size), np.float32)
        device.tf32 = tf32
        try:
            return 2 * size**3 / timed(lambda: device.product(a, b, out), 20)
        finally:
            device.tf32 = False

    def copied(count: int) -> float:
        origin, copy = xp.zeros(count, np.float32), xp.empty(count, np.float32)
        return float(2 * origin.nbytes / timed(lambda: xp.copyto(copy, origin), 10))

    def answer() -> Answer:
        with device.running():
            bandwidth = copied(1 << 29)
            device.release()
            small = xp.zeros((8, 8), np.float32)
            device.product(small, small, small)
            replay = device.record(lambda: device.product(small, small, small))
            launch = timed(lambda: (replay(), device.mark()())[0], 200)
            name = xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
            return {
                "name": name,
                "float16": product(np.float16, 8192),
                "tf32": product(np.float32, 8192, tf32=True),
                "float32": product(np.float32, 4096),
                "bandwidth": bandwidth,
                "launch": launch,
            }

    return answer


def agreement(artifact: Artifact) -> Callable[..., Answer]:
    """For each runtime: the largest difference in log-probability from Chainer, and the perplexity, of texts that are
    given, a word of each at a time, or drawn from the model itself."""
    import model.runtimes

    names = ("chainer", "cuda-float32", "cuda")
    runtimes = {name: model.runtimes.load(artifact, name) for name in names}

    def answer(*, streams: int, words: int, given: list[list[int]] | None = None) -> Answer:
        draw = np.random.default_rng(4)
        states = {name: runtime.zero_state(streams) for name, runtime in runtimes.items()}
        ids = np.full(streams, artifact.start_id or 0, np.int64)
        largest, likelihood = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for place in range(words):
            rows = {}
            for name, runtime in runtimes.items():
                states[name] = runtime.advance(ids, states[name])
                rows[name] = runtime.log_probabilities(states[name][-1])
            reference = rows["chainer"]
            if given is None:
                ids = (reference + draw.gumbel(size=reference.shape)).argmax(axis=1)
            else:
                ids = np.array(given[place], np.int64)
            for name in names:
                largest[name] = max(largest[name], float(np.abs(rows[name] - reference).max()))
                likelihood[name] += float(rows[name][np.arange(streams), ids].sum(dtype=np.float64))
        count = streams * words
        return {name: [largest[name], math.exp(-likelihood[name] / count)] for name in names}

    return answer


def main(name: str, path: str) -> None:
    def prepare() -> Callable[..., Any]:
        if name == "ceilings":
            return ceilings()
        artifact = Artifact.load(Path(path))
        if name == "agreement":
            return agreement(artifact)
        begin = torch_steps(artifact) if name == "torch" else runtime_steps(name, artifact)
        return measured(begin, len(artifact.tokenizer))

    answer_questions(prepare)


if __name__ == "__main__":
    main(*sys.argv[1:3])
