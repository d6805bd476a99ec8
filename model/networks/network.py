"""What every network has in common: a step on a state that is a value, and the stateful call that training uses."""

from __future__ import annotations

from typing import Any, ClassVar

from model.compat import chainer

F = chainer.functions

#: A sequence state: one (B, size) float32 Variable or array a tensor, the last one the hidden output h_t that the
#: vocabulary is projected from. The tensors of each kind are listed in `model.shapes`.
State = tuple[Any, ...]


class NextWordNetwork(chainer.Chain):
    """A word-level recurrent language model.

    A network gives `zero_state`, `step` and `logits`; everything else follows. `step` keeps nothing; calling the
    network does: it continues from `self.state`, which `reset_state` clears and whose gradient is cut by
    `loss.unchain_backward()` (truncated back-propagation through time, Williams and Peng 1990).
    """

    kind: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.state: State | None = None
        #: What training adds to the loss of the window just read, a scalar Variable, where a network wants it.
        self.penalty: Any = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, as a model directory's `config.json` holds them, `kind` included."""
        return {"kind": self.kind} | {
            name: getattr(self, name) for name in ("vocabulary_size", *self._sizes) if hasattr(self, name)
        }

    _sizes: ClassVar[tuple[str, ...]] = ("embedding_size", "hidden_size", "hidden_sizes", "output_size")

    @property
    def weights(self) -> dict[str, Any]:
        """The arrays of its parameters themselves, by the names that a model directory has for them."""
        return {path.lstrip("/"): parameter.array for path, parameter in self.namedparams()}

    def zero_state(self, batch: int) -> State:
        """The state before any word: zeros (batch, size) for each tensor."""
        return tuple(self.xp.zeros((batch, size), self.xp.float32) for size in self.state_sizes)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The sizes of the state's tensors, in the order of `State`."""
        raise NotImplementedError

    def step(self, x: Any, state: State) -> tuple[Any, State]:
        """Consume one word a row: x (B,) int ids -> h (B, H), state'. `state` itself is unchanged."""
        raise NotImplementedError

    def logits(self, h: Any) -> Any:
        """Unnormalised log-probabilities of the next word: h (N, H) -> (N, V)."""
        W, b = self.output_parameters()
        return F.linear(h, W, b)

    def output_parameters(self) -> tuple[Any, Any]:
        """The matrix (V, H) and bias (V,) of the output layer, for a loss that never holds all the logits."""
        raise NotImplementedError

    def sequence(self, xs: Any, state: State) -> tuple[Any, State]:
        """Consume T words a row: xs (T, B) int ids -> hidden outputs (T, B, H), state'."""
        hidden = []
        for x in xs:
            h, state = self.step(x, state)
            hidden.append(h)
        if not hidden:
            return self.xp.zeros((0, xs.shape[1], self.state_sizes[-1]), self.xp.float32), state
        return F.stack(hidden), state

    def reset_state(self) -> None:
        """Forget everything that was consumed."""
        self.state = None

    def forward(self, xs: Any) -> Any:
        """Consume T words a row, continuing from the state kept: xs (T, B) int ids -> hidden outputs (T, B, H)."""
        state = self.zero_state(xs.shape[1]) if self.state is None else self.state
        hidden, self.state = self.sequence(xs, state)
        return hidden
