"""A contender of the GPU benchmark's training: `python -m tests.benchmarks.gpu_training NAME MODEL`.

NAME is nextword or torch. AWD-LSTM's shape, 80 streams, windows of 70, SGD, gradients clipped at 0.25, no dropout, the
loss over all words.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from model.artifact import Artifact
from model.runtimes.base import Ids
from tests.benchmarks.harness import Answer, MissingError, answer_questions

BATCH, WINDOW, CLIPPING = 80, 70, 0.25


def text(vocabulary_size: int) -> Ids:
    """200,000 words whose frequencies fall as those of a language do (Zipf)."""
    draw = np.random.default_rng(3)
    words = np.minimum(draw.zipf(1.1, 400_000) - 1, 1 << 40)
    return words[words < vocabulary_size][:200_000]


def ours(artifact: Artifact) -> Callable[..., float]:
    from model.compat import chainer
    from model.cuda.device import cupy_device
    from model.networks import build
    from model.training.batches import ParallelSequentialIterator
    from model.training.trainer import open_device
    from model.training.updater import GradientClipping, TruncatedBPTTUpdater

    device = open_device("cuda:0")
    network = build(artifact.network)
    for path, parameter in network.namedparams():
        parameter.array[...] = artifact.weights[path.lstrip("/")]
    network.to_device(device)
    optimizer = chainer.optimizers.SGD(lr=1.0).setup(network)
    clipping = GradientClipping(CLIPPING)
    optimizer.add_hook(clipping)
    iterator = ParallelSequentialIterator(text(len(artifact.tokenizer)), BATCH, WINDOW)
    updater = TruncatedBPTTUpdater(iterator, optimizer, clipping, seed=0, device=device)

    def speed(seconds: float, *, tf32: bool) -> float:
        cupy_device(0).tf32 = tf32
        observation: dict[str, object] = {}
        with chainer.Reporter().scope(observation):
            for _ in range(3):
                updater.update()
            device.xp.cuda.runtime.deviceSynchronize()
            began, before = time.perf_counter(), iterator.epoch_detail
            while time.perf_counter() - began < seconds:
                updater.update()
            device.xp.cuda.runtime.deviceSynchronize()
        return (iterator.epoch_detail - before) * iterator.words_an_epoch / (time.perf_counter() - began)

    return speed


def theirs(artifact: Artifact) -> Callable[..., float]:
    try:
        from tests.benchmarks.peers.torch_cuda import TorchTraining
    except ModuleNotFoundError as error:
        raise MissingError(f"{error.name} is not installed") from error
    return TorchTraining(artifact, text(len(artifact.tokenizer)), BATCH, WINDOW).speed


def main(name: str, path: str) -> None:
    def prepare() -> Callable[..., Answer]:
        artifact = Artifact.load(Path(path))
        speed = ours(artifact) if name == "nextword" else theirs(artifact)

        def answer(*, seconds: float, tf32: bool) -> Answer:
            return {"speed": speed(seconds, tf32=tf32)}

        return answer

    answer_questions(prepare)


if __name__ == "__main__":
    main(*sys.argv[1:3])
