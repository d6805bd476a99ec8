"""Bodies for the fuzz tests: fields that exist with values that do not fit, JSON that is nearly right, and worse."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.app.fake_runtime import WORDS

#: Long enough to be tokenised in parts and on another thread; and what tokenizers stumble over.
_PIECES = [
    *WORDS,
    "n't",
    "'s",
    "U.S.",
    "...",
    "\u2026",
    "1,000.5",
    "http://a.b/c?d=e",
    "\u200b",
    "\u202e",
    "\ufeff",
    "\x00",
    "\r\n",
    "\U0001f469\u200d\U0001f680",
    "e\u0301\u0301",
    "ﬃ",
    "İ",
    "ß",
    "\ud7ff",
    "\uffff",
    '"',
    "``",
    "''",
    "<unk>",
    "<eos>",
    "--",
    "\u4e2d\u6587",
    " " * 300,
    "a" * 2100,
]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(_PIECES), max_size=30).map("".join),
    st.lists(st.sampled_from(_PIECES), max_size=30).map(" ".join),
)
_NUMBERS = st.sampled_from(
    [-(2**63), -1, 0, 1, 2, 5, 41, 42, 2**31, 2**53, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, 5e-324]
)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
#: Values that fit often enough to get past the first check.
_FITTING: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "prompt": TEXTS | st.lists(st.integers(-1, 50), max_size=5) | st.lists(TEXTS, max_size=3),
    "texts": st.lists(TEXTS, max_size=4),
    "words": st.lists(st.sampled_from(WORDS) | TEXTS, max_size=6),
    "stop": st.lists(TEXTS, max_size=3) | TEXTS,
    "tokens": st.lists(st.integers(-1, 50), max_size=6),
    "prefix": TEXTS,
    "position": st.integers(0, 5),
    "top_k": st.integers(0, 50),
    "max_words": st.integers(0, 5),
    "max_tokens": st.integers(0, 5),
    "keep": st.booleans(),
    "scores": st.booleans(),
    "include_unknown": st.booleans(),
    "adapt": st.booleans(),
    "stream": st.booleans(),
    "stream_options": st.sampled_from([None, {}, {"include_usage": True}]),
    "echo": st.booleans(),
    "temperature": st.floats(0, 3),
    "top_p": st.floats(0.01, 1),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "n": st.integers(1, 3),
    "best_of": st.none(),
    "logprobs": st.integers(0, 5),
    "model": st.sampled_from(["", "fake", "fake@0123456789ab"]),
    "user": TEXTS,
    "suffix": st.none(),
    "logit_bias": st.just({}),
    "frequency_penalty": st.just(0.0),
    "presence_penalty": st.just(0.0),
    "ttl_seconds": st.floats(1, 1e12),
    "add_special_tokens": st.booleans(),
    "return_token_strs": st.booleans(),
}


def objects(names: list[str], session_id: str) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects with some of these fields: such as fit, and such as may not, with others among them."""
    sessions = st.just(session_id) | st.text(max_size=40)
    fitting = {name: _FITTING.get(name, _VALUES) for name in names} | {"session_id": st.just(session_id)}
    fitting = {name: values for name, values in fitting.items() if name in names}
    wild = {name: sessions if name == "session_id" else fitting.get(name, _VALUES) | _VALUES for name in names}
    return st.fixed_dictionaries({}, optional=fitting) | st.fixed_dictionaries({}, optional=wild | {"extra": _VALUES})


def contents(names: list[str], session_id: str) -> st.SearchStrategy[bytes]:
    """Request bodies: JSON objects, written in either way."""
    return st.builds(
        lambda value, plain: json.dumps(value, ensure_ascii=plain).encode("utf-8", "surrogatepass"),
        objects(names, session_id),
        st.booleans(),
    )


def damaged(content: bytes, seed: int, count: int) -> list[bytes]:
    """`content` `count` times, each with some bytes cut out, put in, doubled or changed; the same for the same seed."""
    random, results = Random(seed), []
    for _ in range(count):
        result = content
        for _ in range(random.randint(1, 3)):
            at = random.randint(0, len(result))
            end = min(len(result), at + random.choice([0, 1, 2, 8, len(result)]))
            pieces = (b"", result[at:end] * 2, b"\x00", b"\xff", b"{", b"[" * 50, b'"', b"\\ud800", random.randbytes(4))
            result = result[:at] + random.choice(pieces) + result[end:]
        results.append(result)
    return results
