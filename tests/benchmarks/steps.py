"""One contender of the engine benchmark, a process of its own: `python -m tests.benchmarks.steps NAME MODEL THREADS`.

A step is what one word costs a batch of sequences: they consume it, and each gets its ten likeliest next words with
their log-probabilities.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model.adaptation import Adaptation, Cache
from model.artifact import Artifact
from model.products import KEY_STEPS
from model.runtimes.base import Floats, Ids
from model.shapes import state_tensors
from tests.benchmarks.harness import Answer, MissingError, answer_questions, median
from tests.benchmarks.peers import Network

TOP_K = 10

#: A step, given the ids of the next words (B,).
Step = Callable[[Ids], object]
#: What makes one for sequences of a batch of so many that have consumed nothing; or several ways, the fastest counts.
Steps = Callable[[int], Sequence[Step]]


def runtime_steps(name: str, artifact: Artifact, threads: int) -> Steps:
    """One of our runtimes, called as the service calls it."""
    import model.runtimes

    runtime = model.runtimes.load(artifact, name, threads=threads)

    def begin(batch: int) -> Sequence[Step]:
        state = runtime.zero_state(batch)

        def step(ids: Ids) -> object:
            nonlocal state
            state = runtime.advance(ids, state)
            return runtime.project(state[-1], top_k=TOP_K)

        return [step]

    return begin


def engine_steps(artifact: Artifact, threads: int, adaptation: Adaptation | None = None) -> Steps:
    """The cpu runtime within the service's engine: jobs, states in slots, the answers taken apart.

    adaptation: for sequences that adapt, their caches full.
    """
    import model.runtimes
    from app.engine import Engine, Job
    from app.states import START, States

    runtime = model.runtimes.load(artifact, "cpu", threads=threads)
    most = 128
    states = States(runtime, 2 * most)
    slots = [states.take() for _ in range(2 * most)]
    engine = Engine(
        runtime, states, unknown_id=artifact.tokenizer.unknown_id, start_id=artifact.start_id, max_batch=most
    )

    full = None if adaptation is None else [full_cache(adaptation, artifact, number) for number in range(most)]

    def begin(batch: int) -> Sequence[Step]:
        before, after = [START] * batch, slots[:batch]
        spare = slots[most : most + batch]
        caches: list[Cache | None] = [None] * batch if full is None else [*full[:batch]]

        def step(ids: Ids) -> object:
            nonlocal before, after, spare, caches
            jobs = [
                Job([id], source, slot, TOP_K, cache=cache)
                for id, source, slot, cache in zip(ids.tolist(), before, after, caches, strict=True)
            ]
            for job in jobs:
                engine.join(job)
            over = engine.tick()
            caches = [job.cache for job in jobs]
            before, after, spare = after, spare, after
            return over

        return [step]

    return begin


def full_cache(adaptation: Adaptation, artifact: Artifact, seed: int) -> Cache:
    """The cache of a sequence whose words are as frequent as those of a language: the n-th with 1/n (Zipf's law)."""
    V, width = len(artifact.tokenizer), state_tensors(artifact.network)[-1].size
    chances = 1 / np.arange(1, V + 1)
    random = np.random.default_rng(seed)
    words = random.choice(V, adaptation.size, p=chances / chances.sum()).astype("<u4")
    keys = random.integers(-KEY_STEPS, KEY_STEPS + 1, (adaptation.size, width)).astype(np.int8)
    content = words.tobytes() + keys.tobytes()
    return Cache.unpack(adaptation, content, count=adaptation.size, width=width, position=adaptation.size)


def graph_steps(name: str, artifact: Artifact, threads: int) -> Steps:
    """The limit: the runtime's own two graphs run bare, in a loop that does nothing else, from one array to the next.

    Large batches are projected as a whole, and in pieces as the runtime does it.
    """
    import model.runtimes
    from model.runtimes.cpu import ROWS, CpuRuntime

    runtime = model.runtimes.load(artifact, name.removesuffix("-graphs"), threads=threads)
    if not isinstance(runtime, CpuRuntime):
        raise TypeError(f"{runtime.name} is no runtime with graphs")
    advance, project = runtime._advance.run, runtime._project.run
    before = [tensor.name for tensor in runtime.state_tensors]
    after = [output.name for output in runtime._advance.get_outputs()]  # in the same order
    results = [output.name for output in runtime._project.get_outputs()][:2]

    def begin(batch: int) -> Sequence[Step]:
        feed: dict[str, Any] = dict(zip(before, runtime.zero_state(batch), strict=True))
        k = np.array([TOP_K], np.int64)

        def step(rows: int, ids: Ids) -> object:
            feed["ids"] = ids
            state = advance(after, feed)
            feed.update(zip(before, state, strict=True))
            hidden = state[-1]
            return [project(results, {"hidden": hidden[at : at + rows], "k": k}) for at in range(0, batch, rows)]

        return [partial(step, rows) for rows in sorted({batch, min(batch, ROWS)})]

    return begin


def _sigmoid(x: Floats) -> Floats:
    np.negative(x, out=x)
    np.exp(x, out=x)
    x += 1
    return np.reciprocal(x, out=x)


def likeliest(logits: Floats, k: int) -> tuple[Ids, Floats]:
    """The ids (B, k) of the greatest logits (B, V), greatest first, and their log-probabilities."""
    V = logits.shape[1]
    ids = np.argpartition(logits, V - k, axis=1)[:, V - k :]
    values = np.take_along_axis(logits, ids, axis=1)
    order = np.argsort(-values, axis=1)
    ids, values = np.take_along_axis(ids, order, axis=1), np.take_along_axis(values, order, axis=1)
    top = values[:, :1]
    return ids, values - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


def numpy_steps(artifact: Artifact) -> Steps:
    """What one writes by hand: a matrix product a layer, one for the logits, argpartition."""
    weights, sizes = artifact.weights, artifact.network["hidden_sizes"]
    E, b_out = weights["embed/W"], weights["output/b"]
    layers: list[tuple[Floats, Floats, int]] = []
    for layer, H in enumerate(sizes):
        W = np.concatenate([weights[f"layers/{layer}/W_x"], weights[f"layers/{layer}/W_h"]], axis=1)
        layers.append((np.ascontiguousarray(W.T), weights[f"layers/{layer}/b"], H))

    def begin(batch: int) -> Sequence[Step]:
        cells = [np.zeros((batch, H), np.float32) for H in sizes]
        outputs = [np.zeros((batch, H), np.float32) for H in sizes]

        def step(ids: Ids) -> object:
            x = E[ids]
            for layer, (W, b, H) in enumerate(layers):
                gates = np.concatenate([x, outputs[layer]], axis=1) @ W
                gates += b
                i, f = _sigmoid(gates[:, :H]), _sigmoid(gates[:, H : 2 * H])
                g, o = np.tanh(gates[:, 2 * H : 3 * H]), _sigmoid(gates[:, 3 * H :])
                cells[layer] = f * cells[layer] + i * g
                x = outputs[layer] = o * np.tanh(cells[layer])
            logits = x @ E.T
            logits += b_out
            return likeliest(logits, TOP_K)

        return [step]

    return begin


def network_steps(network: Network) -> Steps:
    """A network of another framework, see `tests.benchmarks.peers`."""

    def begin(batch: int) -> Sequence[Step]:
        state = network.zero_state(batch)

        def step(ids: Ids) -> object:
            nonlocal state
            state, top_ids, log_probabilities = network.step(ids, state, TOP_K)
            return top_ids, log_probabilities

        return [step]

    return begin


def contender(name: str, artifact: Artifact, threads: int) -> Steps:
    """Raises MissingError for a framework that is not installed, ValueError for a name that is not known."""
    match name:
        case "cpu" | "cpu-float32" | "chainer":
            return runtime_steps(name, artifact, threads)
        case "engine":
            return engine_steps(artifact, threads)
        case "engine-adapting":
            return engine_steps(artifact, threads, Adaptation())
        case "cpu-graphs" | "cpu-float32-graphs":
            return graph_steps(name, artifact, threads)
        case "numpy":
            return numpy_steps(artifact)
        case "chainer-by-hand":
            from tests.benchmarks.peers.chainer_network import ChainerNetwork

            return network_steps(ChainerNetwork(artifact))
        case "torch":
            try:
                from tests.benchmarks.peers.torch_network import TorchNetwork
            except ModuleNotFoundError as error:
                raise MissingError(f"{error.name} is not installed") from error
            return network_steps(TorchNetwork(artifact, threads))
    raise ValueError(f"no contender {name!r}")


def answers(steps: Steps, vocabulary_size: int) -> Callable[..., Answer]:
    """Answers each question with the median step of a while."""
    draw = np.random.default_rng(2)

    def measure(*, batch: int, seconds: float, least: int) -> Answer:
        words = draw.integers(0, vocabulary_size, (64, batch))
        medians = []
        for step in steps(batch):
            step(words[0])
            taken: list[float] = []
            end = time.perf_counter() + seconds
            while len(taken) < least or time.perf_counter() < end:
                ids = words[len(taken) % len(words)]
                began = time.perf_counter()
                step(ids)
                taken.append(time.perf_counter() - began)
            medians.append(median(taken))
        return {"seconds": min(medians)}

    return measure


def main(arguments: Sequence[str]) -> None:
    name, path, threads = arguments

    def prepare() -> Callable[..., Answer]:
        artifact = Artifact.load(Path(path))
        return answers(contender(name, artifact, int(threads)), len(artifact.tokenizer))

    answer_questions(prepare)


if __name__ == "__main__":
    main(sys.argv[1:])
