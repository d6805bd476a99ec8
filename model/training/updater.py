"""One update: a window forward, back-propagation cut at its start, clipped gradients, an optimiser step."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.compat import chainer
from model.loss import linear_softmax_cross_entropy
from model.networks import NextWordNetwork
from model.training.batches import ParallelSequentialIterator
from model.training.processes import Processes
from model.training.sampling import CandidateSampler

#: Updates between two looks at whether all is finite. On a CPU nobody waits for a look.
LOOKS = {"cpu": 1, "cuda": 16}


class DivergedError(RuntimeError):
    """The loss, the gradient or the network is not finite any more; the message says which, and when."""


class GradientClipping:
    """Scales all gradients down together when their L2 norm is over `threshold` (Pascanu et al. 2013).

    `norm` holds the last norm before clipping, for the log.
    """

    name = "GradientClipping"
    call_for_each_param = False
    timing = "pre"

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.norm: Any = 0.0

    def __call__(self, optimizer: Any) -> None:
        gradients = [parameter.grad for parameter in optimizer.target.params(False) if parameter.grad is not None]
        xp = chainer.backend.get_array_module(*gradients)
        self.norm = xp.sqrt(sum(xp.vdot(gradient, gradient) for gradient in gradients))
        # No branch on the norm: on a GPU that would wait for it.
        rate = xp.minimum(self.threshold / (self.norm + 1e-12), 1).astype(xp.float32)
        for gradient in gradients:
            gradient *= rate


class TruncatedBPTTUpdater(chainer.training.updaters.StandardUpdater):
    """Back-propagation through the window only (Williams and Peng 1990); the state's value is carried over.

    The random numbers of an update depend on the seed and the iteration alone, so that a run resumed from a snapshot
    draws the same dropout masks. The recurrent state is part of the snapshot. An update raises DivergedError when its
    loss or gradient, or one of the few before it that were not looked at, is not finite; the network is then spoilt,
    and the last snapshot is not.

    With several `processes` each draws for itself, the loss reported is the mean, and a snapshot holds the states of
    all streams: the training can go on in another number of processes.
    """

    def __init__(
        self,
        iterator: ParallelSequentialIterator,
        optimizer: Any,
        clipping: GradientClipping,
        *,
        seed: int,
        sampler: CandidateSampler | None = None,
        sampled_until: int = 0,
        device: Any,
        processes: Processes | None = None,
        looks: int | None = None,
    ) -> None:
        """The first `sampled_until` updates take their loss over `sampler`'s candidates, the others over all words.

        looks: updates between two looks at whether all is finite, `LOOKS` of the device if None.
        """
        super().__init__(iterator, optimizer, device=device)
        self._clipping = clipping
        self._seed = seed
        self._sampler = sampler
        self._sampled_until = sampled_until
        self._processes = processes or Processes()
        self._looks = looks or LOOKS["cpu" if device.xp is np else "cuda"]
        self._seen: Any = 0.0  # stays finite as long as all that is added to it is
        network: NextWordNetwork = optimizer.target
        network.state = network.zero_state(iterator.batch_size)

    def update_core(self) -> None:
        iterator: ParallelSequentialIterator = self.get_iterator("main")
        optimizer = self.get_optimizer("main")
        network: NextWordNetwork = optimizer.target
        random = np.random.default_rng((self._seed, self.iteration, self._processes.rank))
        network.xp.random.seed(random.integers(2**32))
        words, targets = map(np.ascontiguousarray, next(iterator))

        hidden = network(self.device.send(words))
        hidden = chainer.functions.reshape(hidden, (-1, hidden.shape[-1]))
        W, b = network.output_parameters()
        sampler = self._sampler if self.iteration < self._sampled_until else None
        if sampler is not None:
            loss = sampler.loss(hidden, W, b, targets.ravel(), random)
        else:
            loss = linear_softmax_cross_entropy(hidden, W, b, self.device.send(targets.ravel()))
        objective = loss if network.penalty is None else loss + network.penalty
        network.cleargrads()
        objective.backward()
        objective.unchain_backward()
        optimizer.update()
        # One look for both, and for those since the last one: on a GPU a look waits until all that is queued is done.
        self._seen = self._seen + loss.array + self._clipping.norm
        if self.iteration % self._looks == 0 and not network.xp.isfinite(self._seen):
            raise DivergedError(
                f"the loss is {float(loss.array)} and the gradient's norm {float(self._clipping.norm)} at iteration "
                f"{self.iteration}"
            )
        if iterator.is_new_epoch:
            network.state = network.zero_state(iterator.batch_size)
        # Over candidates it is no estimate of the loss over all words: only its gradient is.
        name = "main/loss" if sampler is None else "main/candidate_loss"
        chainer.report({name: self._processes.mean(loss.array), "main/gradient_norm": self._clipping.norm})

    def serialize(self, serializer: Any) -> None:
        super().serialize(serializer)
        network: NextWordNetwork = self.get_optimizer("main").target
        processes = self._processes
        state = [processes.all_rows(chainer.as_array(tensor)) for tensor in network.state or ()]
        network.state = tuple(
            self.device.send(processes.own(serializer(f"state/{index}", tensor))) for index, tensor in enumerate(state)
        )
