"""The network in PyTorch: `nn.LSTM` layers with the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from model.artifact import Artifact
from model.runtimes.base import Floats, Ids


class TorchNetwork:
    """`tests.benchmarks.peers.Network`, for an lstm_stack. `nn.LSTM` orders its gates as that does: i, f, g, o."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        torch.set_num_threads(threads)
        weights = {name: torch.from_numpy(weight.copy()) for name, weight in artifact.weights.items()}
        self._embedding, self._bias = weights["embed/W"], weights["output/b"]
        self._sizes: list[int] = artifact.network["hidden_sizes"]
        self._layers = []
        below = self._embedding.shape[1]
        for layer, size in enumerate(self._sizes):
            lstm = torch.nn.LSTM(below, size)
            lstm.load_state_dict(
                {
                    "weight_ih_l0": weights[f"layers/{layer}/W_x"],
                    "weight_hh_l0": weights[f"layers/{layer}/W_h"],
                    "bias_ih_l0": weights[f"layers/{layer}/b"],
                    "bias_hh_l0": torch.zeros(4 * size),
                }
            )
            self._layers.append(lstm.eval())
            below = size

    def zero_state(self, batch: int) -> list[Any]:
        return [torch.zeros(batch, size) for size in self._sizes for _ in "ch"]

    @torch.inference_mode()
    def step(self, ids: Ids, state: list[Any], k: int) -> tuple[list[Any], Ids, Floats]:
        x = self._embedding[torch.from_numpy(np.ascontiguousarray(ids))][None]  # (1, B, E)
        new = []
        for layer, c, h in zip(self._layers, state[::2], state[1::2], strict=True):
            x, (h_next, c_next) = layer(x, (h[None], c[None]))
            new += [c_next[0], h_next[0]]
        logits = torch.addmm(self._bias, x[0], self._embedding.T)
        values, best = logits.topk(k, dim=1)
        values = values - logits.logsumexp(dim=1, keepdim=True)
        return new, best.numpy(), values.numpy()
