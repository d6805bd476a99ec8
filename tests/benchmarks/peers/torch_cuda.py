"""The networks in PyTorch on a GPU: a serving step in a CUDA graph, and a training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from model.artifact import Artifact
from model.runtimes.base import Ids

DEVICE = torch.device("cuda", 0)


def _layers(artifact: Artifact, dtype: torch.dtype) -> list[Any]:
    """cuDNN's LSTM, layer by layer; it orders its gates as an lstm_stack does: i, f, g, o."""
    weights = artifact.weights
    layers, below = [], weights["embed/W"].shape[1]
    for number, size in enumerate(artifact.network["hidden_sizes"]):
        lstm = torch.nn.LSTM(below, size)
        lstm.load_state_dict(
            {
                "weight_ih_l0": torch.from_numpy(weights[f"layers/{number}/W_x"].copy()),
                "weight_hh_l0": torch.from_numpy(weights[f"layers/{number}/W_h"].copy()),
                "bias_ih_l0": torch.from_numpy(weights[f"layers/{number}/b"].copy()),
                "bias_hh_l0": torch.zeros(4 * size),
            }
        )
        layers.append(lstm.to(DEVICE, dtype))
        below = size
    return layers


class TorchSteps:
    """A step of each batch in a CUDA graph of its own, float16; states stay where they are on the device.

    What comes back are the likeliest words and their log-probabilities; the entropy, another word's log-probability
    and the way from slot to slot, which ours have, are left out.
    """

    def __init__(self, artifact: Artifact, top_k: int) -> None:
        self._top_k = top_k
        self._steps: dict[int, Callable[[Ids], object]] = {}
        self._sizes = artifact.network["hidden_sizes"]
        self._embedding = torch.from_numpy(artifact.weights["embed/W"].copy()).to(DEVICE, torch.float16)
        self._bias = torch.from_numpy(artifact.weights["output/b"].copy()).to(DEVICE, torch.float16)
        self._layers = [layer.eval() for layer in _layers(artifact, torch.float16)]

    def begin(self, batch: int) -> Callable[[Ids], object]:
        if batch not in self._steps:
            self._steps[batch] = self._recorded(batch)
        return self._steps[batch]

    @torch.no_grad()
    def _recorded(self, batch: int) -> Callable[[Ids], object]:
        ids = torch.zeros(batch, dtype=torch.int64, device=DEVICE)
        sent = torch.zeros(batch, dtype=torch.int64).pin_memory()
        states = [torch.zeros(1, batch, size, dtype=torch.float16, device=DEVICE) for size in self._sizes for _ in "hc"]
        back = torch.empty(batch, self._top_k, dtype=torch.int64).pin_memory()
        values_back = torch.empty(batch, self._top_k, dtype=torch.float32).pin_memory()

        def work() -> None:
            ids.copy_(sent, non_blocking=True)
            x = self._embedding[ids][None]
            for number, layer in enumerate(self._layers):
                h, c = states[2 * number : 2 * number + 2]
                x, (h_next, c_next) = layer(x, (h, c))
                h.copy_(h_next)
                c.copy_(c_next)
            logits = torch.addmm(self._bias, x[0], self._embedding.T)
            values, best = logits.topk(self._top_k, dim=1)
            values = values.float() - logits.float().logsumexp(dim=1, keepdim=True)
            back.copy_(best, non_blocking=True)
            values_back.copy_(values, non_blocking=True)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()

        def step(words: Ids) -> object:
            sent.copy_(torch.from_numpy(np.ascontiguousarray(words)))
            graph.replay()
            torch.cuda.synchronize()
            return back.numpy().copy(), values_back.numpy().copy()

        return step


class TorchTraining:
    """SGD on windows of a text, gradients clipped, the loss over all words; cuDNN's LSTM and a tied output."""

    def __init__(self, artifact: Artifact, ids: Ids, batch: int, window: int) -> None:
        self._embedding = torch.nn.Parameter(torch.from_numpy(artifact.weights["embed/W"].copy()).to(DEVICE))
        self._bias = torch.nn.Parameter(torch.from_numpy(artifact.weights["output/b"].copy()).to(DEVICE))
        self._layers = _layers(artifact, torch.float32)
        self._parameters = [self._embedding, self._bias, *(p for layer in self._layers for p in layer.parameters())]
        self._optimizer = torch.optim.SGD(self._parameters, lr=1.0)
        length = (len(ids) - 1) // batch
        self._words = torch.from_numpy(ids[: batch * length].reshape(batch, length).T.copy()).to(DEVICE)
        self._targets = torch.from_numpy(ids[1 : batch * length + 1].reshape(batch, length).T.copy()).to(DEVICE)
        self._window, self._at = window, 0
        self._states: list[Any] = [None] * len(self._layers)

    def update(self) -> int:
        """Queue one; returns its words."""
        part = slice(self._at, self._at + self._window)
        words, targets = self._words[part], self._targets[part]
        self._at = part.stop if part.stop + self._window <= len(self._words) else 0
        x = torch.nn.functional.embedding(words, self._embedding)
        for number, layer in enumerate(self._layers):
            x, state = layer(x, self._states[number])
            self._states[number] = tuple(tensor.detach() for tensor in state)
        logits = torch.nn.functional.linear(x.flatten(0, 1), self._embedding, self._bias)
        loss = torch.nn.functional.cross_entropy(logits, targets.flatten())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 0.25)
        self._optimizer.step()
        return words.numel()

    def speed(self, seconds: float, *, tf32: bool) -> float:
        """Words a second, of updates for so long."""
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        for _ in range(3):
            self.update()
        torch.cuda.synchronize()
        began, words, rounds = time.perf_counter(), 0, 0
        while time.perf_counter() - began < seconds:
            words += self.update()
            rounds += 1
            if rounds % 16 == 0:
                torch.cuda.synchronize()
        torch.cuda.synchronize()
        return words / (time.perf_counter() - began)
