"""What the reader of a tutorial would write: Chainer behind FastAPI, a lock, and a dict with each session's state.

`python -m tests.benchmarks.peers.tutorial PORT MODEL`
"""

from __future__ import annotations

import itertools
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI

from model.artifact import Artifact
from tests.benchmarks.peers.chainer_network import ChainerNetwork
from tests.benchmarks.peers.shapes import PredictReply, PredictRequest, Word, predictions, serve


def application(artifact: Artifact) -> FastAPI:
    app = FastAPI()
    network, tokenizer = ChainerNetwork(artifact), artifact.tokenizer
    lock = threading.Lock()
    states: dict[str, tuple[list[Any], int]] = {}
    numbers = itertools.count()

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/sessions")
    def open_session() -> dict[str, str]:
        session_id = f"{next(numbers):032}"
        with lock:
            state = network.zero_state(1)
            if artifact.start_id is not None:
                state, _, _ = network.step(np.array([artifact.start_id]), state, 10)
            states[session_id] = state, 0
        return {"session_id": session_id}

    @app.post("/v1/predict")
    def predict(request: PredictRequest) -> PredictReply:
        with lock:
            state, position = states[request.session_id]
            for word in request.words:
                id = tokenizer.id_of(word)
                state, top_ids, logarithms = network.step(
                    np.array([tokenizer.unknown_id if id is None else id]), state, 10
                )
            position += len(request.words)
            states[request.session_id] = state, position
        best = [tokenizer.word_of(id) for id in top_ids[0].tolist()]
        return PredictReply(
            session_id=request.session_id,
            position=position,
            model=artifact.id,
            expires_at="2026-01-01T00:00:00Z",
            words=[Word(word=word, known=True) for word in request.words],
            predictions=predictions(best, np.exp(logarithms[0]).tolist(), logarithms[0].tolist()),
            prefix_probability=1.0,
            unknown_probability=0.0,
        )

    return app


if __name__ == "__main__":
    served = application(Artifact.load(Path(sys.argv[2])))
    serve(served, int(sys.argv[1]))
