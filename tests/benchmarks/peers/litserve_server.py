"""LitServe with dynamic batching, PyTorch behind it, each session's state kept in the worker.

`python -m tests.benchmarks.peers.litserve_server PORT MODEL`
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import torch
from fastapi import APIRouter

from model.artifact import Artifact
from tests.benchmarks.peers.torch_network import TorchNetwork

MAX_BATCH = 128
#: How long a batch waits to be filled: the best of 0, 1, 2, 5 and 10 ms at 64 sessions.
BATCH_TIMEOUT_SECONDS = 0.01
CAPACITY = 1024


class NextWord(litserve.LitAPI):  # type: ignore[misc]
    """A word of a session in, its ten likeliest next words out."""

    def __init__(self, model: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_SECONDS, api_path="/v1/predict")
        self._model = model

    def setup(self, device: str) -> None:
        self._artifact = Artifact.load(self._model)
        self._network = TorchNetwork(self._artifact, 1)
        start = self._network.zero_state(1)
        if self._artifact.start_id is not None:
            start, _, _ = self._network.step(np.array([self._artifact.start_id]), start, 10)
        self._slabs = [tensor.repeat(CAPACITY, 1) for tensor in start]
        self._start = start
        self._slots: dict[str, int] = {}
        self._positions = [0] * CAPACITY

    # Without annotations LitServe hands over the JSON as it is, and sends back what it is given.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return request["session_id"], request["words"][0]

    def batch(self, inputs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return inputs

    def predict(self, batch: list[tuple[str, str]]) -> list[dict[str, Any]]:
        tokenizer = self._artifact.tokenizer
        slots = [self._slot(session_id) for session_id, _ in batch]
        found = [tokenizer.id_of(word) for _, word in batch]
        ids = np.array([tokenizer.unknown_id if id is None else id for id in found])
        rows = torch.tensor(slots)
        state = [slab[rows] for slab in self._slabs]
        state, top_ids, logarithms = self._network.step(ids, state, 10)
        for slab, tensor in zip(self._slabs, state, strict=True):
            slab[rows] = tensor
        probabilities = np.exp(logarithms).tolist()
        replies = []
        for row, (session_id, word) in enumerate(batch):
            self._positions[slots[row]] += 1
            items = zip(top_ids[row].tolist(), probabilities[row], logarithms[row].tolist(), strict=True)
            replies.append(
                {
                    "session_id": session_id,
                    "position": self._positions[slots[row]],
                    "model": self._artifact.id,
                    "expires_at": "2026-01-01T00:00:00Z",
                    "words": [{"word": word, "known": True}],
                    "predictions": [
                        {"word": tokenizer.word_of(id), "probability": probability, "log_probability": logarithm}
                        for id, probability, logarithm in items
                    ],
                    "prefix_probability": 1.0,
                    "unknown_probability": 0.0,
                }
            )
        return replies

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        return output

    def _slot(self, session_id: str) -> int:
        slot = self._slots.get(session_id)
        if slot is None:
            # A ring is enough for a benchmark: sessions that are measured are always among the last.
            slot = self._slots[session_id] = len(self._slots) % CAPACITY
            for slab, tensor in zip(self._slabs, self._start, strict=True):
                slab[slot] = tensor[0]
            self._positions[slot] = 0
        return slot


def main() -> None:
    server = litserve.LitServer(NextWord(Path(sys.argv[2])), accelerator="cpu", workers_per_device=1, fast_queue=True)
    numbers = itertools.count()
    routes = APIRouter()

    @routes.post("/v1/sessions")
    async def open_session() -> dict[str, str]:
        return {"session_id": f"{next(numbers):032}"}

    server.app.include_router(routes)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        timeout_keep_alive=75,
    )


if __name__ == "__main__":
    main()
