from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.compat import chainer
from model.loss import linear_softmax_cross_entropy
from model.training.sampling import CandidateSampler

UNHURRIED = settings(deadline=None)  # the machine may be busy with other things
V, H, N = 60, 6, 30
#: As words are: the n-th most frequent one 1/n as often as the first.
UNIGRAM = 1 / np.arange(1, V + 1) / (1 / np.arange(1, V + 1)).sum()
COUNTS = np.round(UNIGRAM * 1_000_000).astype(np.int64)


def some_targets(random: np.random.Generator) -> Any:
    return random.choice(V, size=N, p=UNIGRAM).astype(np.int32)


def layer(seed: int = 0) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    h = chainer.Variable(random.normal(size=(N, H)).astype(np.float32))
    W = chainer.Parameter(random.normal(0, 0.3, (V, H)).astype(np.float32))
    return h, W, chainer.Parameter(random.normal(size=V).astype(np.float32))


def gradients(loss: Any, *of: Any) -> Any:
    for variable in of:
        variable.cleargrad()
    loss.backward()
    return np.concatenate([variable.grad.ravel() for variable in of]).astype(np.float64)


@UNHURRIED
@given(
    counts=st.lists(st.integers(0, 1000), min_size=2, max_size=50),
    size=st.integers(0, 100),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_candidates_are_in_order_once_each_and_all_targets_among_them(
    counts: list[int], size: int, seed: int, data: st.DataObject
) -> None:
    words = np.flatnonzero([*counts, 1])
    targets = np.array(data.draw(st.lists(st.sampled_from(words.tolist()), min_size=1)), np.int32)
    sampler = CandidateSampler(np.array([*counts, 1]), size, len(targets))
    candidates = sampler.draw(targets, np.random.default_rng(seed))
    assert candidates.dtype == np.int32
    assert (np.diff(candidates) > 0).all()
    assert np.isin(targets, candidates).all()
    assert candidates.min() >= 0
    assert candidates.max() < len(counts) + 1
    assert len(candidates) <= size + len(set(targets.tolist()))


def test_words_become_candidates_as_often_as_the_correction_says() -> None:
    random = np.random.default_rng(5)
    rounds = 4000
    sampler = CandidateSampler(COUNTS, 20, N)
    seen = np.zeros(V)
    for _ in range(rounds):
        seen[sampler.draw(some_targets(random), random)] += 1
    inclusion = np.exp(sampler._log_inclusion.astype(np.float64))
    assert inclusion.min() < 0.3  # words of both kinds, else this shows little
    assert inclusion.max() > 0.99
    deviation = np.sqrt(inclusion * (1 - inclusion) / rounds)
    assert (np.abs(seen / rounds - inclusion) < 4.5 * deviation + 1 / rounds).all()


def test_words_that_the_text_lacks_are_held_down_as_by_the_full_loss() -> None:
    """The bias of a word that is never right has a gradient that lowers it: in the mean that of the full softmax."""
    random = np.random.default_rng(4)
    h, W, b = layer()
    lacking = np.arange(V) % 3 == 1
    unigram = np.where(lacking, 0, UNIGRAM)
    sampler = CandidateSampler(np.where(lacking, 0, COUNTS), 2_000, N)
    full, near = np.zeros(V), np.zeros(V)
    for _ in range(600):
        targets = random.choice(V, size=N, p=unigram / unigram.sum()).astype(np.int32)
        gradients(linear_softmax_cross_entropy(h, W, b, targets), h, W, b)
        full += b.grad
        gradients(sampler.loss(h, W, b, targets, random), h, W, b)
        near += b.grad
    assert (full[lacking] > 0).all()
    assert near[lacking].sum() == pytest.approx(full[lacking].sum(), rel=0.25)


def test_with_every_word_a_candidate_it_is_the_full_loss() -> None:
    random = np.random.default_rng(1)
    h, W, b = layer()
    targets = some_targets(random)
    sampler = CandidateSampler(COUNTS, 20_000, N)
    assert len(sampler.draw(targets, random)) == V
    sampled, full = sampler.loss(h, W, b, targets, random), linear_softmax_cross_entropy(h, W, b, targets)
    assert float(sampled.array) == pytest.approx(float(full.array), abs=1e-5)
    np.testing.assert_allclose(gradients(sampled, h, W, b), gradients(full, h, W, b), atol=1e-6)


def test_the_average_gradient_is_near_the_full_one_thanks_to_the_correction() -> None:
    random = np.random.default_rng(2)
    h, W, b = layer()
    corrected, uncorrected = CandidateSampler(COUNTS, 60, N), CandidateSampler(COUNTS, 60, N)
    uncorrected._log_inclusion = np.zeros(V, np.float32)
    full = np.zeros(N * H + V * H + V)
    near, far = full.copy(), full.copy()
    for _ in range(200):
        targets = some_targets(random)
        full += gradients(linear_softmax_cross_entropy(h, W, b, targets), h, W, b)
        near += gradients(corrected.loss(h, W, b, targets, random), h, W, b)
        far += gradients(uncorrected.loss(h, W, b, targets, random), h, W, b)
    assert np.linalg.norm(near - full) < 0.08 * np.linalg.norm(full)
    assert np.linalg.norm(far - full) > 0.12 * np.linalg.norm(full)


def test_the_same_seed_draws_the_same_candidates() -> None:
    h, W, b = layer()
    targets = some_targets(np.random.default_rng(0))
    sampler = CandidateSampler(COUNTS, 20, N)
    one, same, other = (float(sampler.loss(h, W, b, targets, np.random.default_rng(s)).array) for s in (7, 7, 8))
    assert one == same != other
