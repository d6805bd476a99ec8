from __future__ import annotations

import math

import numpy as np
import pytest

from tests.benchmarks import agreement, report
from tests.benchmarks.harness import interleaved, median, paired_ratio, percentile
from tests.benchmarks.http import ratios
from tests.benchmarks.load import request
from tests.benchmarks.profiler import shares
from tests.benchmarks.replies import MalformedReplyError, parse
from tests.benchmarks.start import imports
from tests.benchmarks.steps import likeliest


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def turn(name: str) -> int:
        order.append(name)
        return len(order)

    assert interleaved({"A": lambda: turn("A"), "B": lambda: turn("B")}, 3) == {"A": [1, 3, 5], "B": [2, 4, 6]}
    assert order == ["A", "B", "A", "B", "A", "B"]


def test_median() -> None:
    assert median([9.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 100.0]) == 3.0
    with pytest.raises(ValueError, match="nothing"):
        median([])


def test_a_ratio_is_taken_within_each_round() -> None:
    # The second round was twice as slow for both: the figures differ, their ratio does not.
    assert paired_ratio([10.0, 5.0, 10.0], [5.0, 2.5, 5.0]) == 2.0
    assert paired_ratio([1.0], [0.0]) == math.inf
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([1.0, 2.0], [1.0])


def test_percentile_is_of_the_nearest_rank() -> None:
    ordered = [float(value) for value in range(1, 201)]
    assert percentile(ordered, 50) == 100
    assert percentile(ordered, 99) == 198
    assert percentile(ordered, 100) == 200
    assert percentile([7.0], 99) == 7.0
    assert percentile([7.0], 0) == 7.0
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00001234, "1.2e-05"),
        (0.5, "0.5"),
        (0.1239, "0.124"),
        (1.0, "1"),
        (1.005, "1"),
        (9.126, "9.13"),
        (10.0, "10"),
        (20.04, "20"),
        (12.35, "12.3"),
        (100.4, "100"),
        (12345.6, "12,346"),
        (-2.5, "-2.5"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_an_aim_says_whether_it_is_met_and_by_how_much_not() -> None:
    assert report.Aim("speed", 0.95, 0.9).line() == "- speed: **0.95**; aim at least 0.9: met."
    assert report.Aim("speed", 0.75, 0.9).line() == "- speed: **0.75**; aim at least 0.9: **missed** by 0.15."
    p99 = report.Aim("p99", 62.5, 50, least=False, unit=" ms")
    assert p99.line() == "- p99: **62.5 ms**; aim at most 50 ms: **missed** by 12.5 ms."
    assert report.Aim("errors", 0, 0, least=False).met
    assert report.Aim("speed", None, 3).line() == "- speed: aim at least 3; not measured."
    assert not report.Aim("speed", None, 3).met


def test_a_section_is_replaced_in_place() -> None:
    document = report.replaced("", "memory", "memory, first\n\n| a | b |\n")
    document = report.replaced(document, "engine", "engine")
    document = report.replaced(document, "agreement", "agreement\\1")
    assert document.startswith("# Benchmarks")
    assert document.index("engine\n") < document.index("memory, first") < document.index("agreement\\1")
    again = report.replaced(document, "memory", "memory, second")
    assert again == document.replace("memory, first\n\n| a | b |", "memory, second")
    assert report.replaced(again, "memory", "memory, second") == again
    with pytest.raises(ValueError, match="no section 'speed'"):
        report.replaced(document, "speed", "fast")


def test_a_table() -> None:
    assert report.table(["row", "B=1"], [["cpu", "2"]]) == "| row | B=1 |\n| --- | ---: |\n| cpu | 2 |"


def test_where_it_was_measured_names_every_version() -> None:
    text = report.circumstances("make bench", ("numpy", "not-a-package"))
    assert f"numpy {np.__version__}" in text
    assert "no not-a-package" in text
    assert "`make bench`" in text


REPLY = b'HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 13\r\nx: y\r\n\r\n{"a": "\r\n\r\n"}'


def test_a_reply_is_there_when_all_of_it_is() -> None:
    for length in range(len(REPLY)):
        assert parse(REPLY[:length]) is None
    reply = parse(REPLY)
    assert reply is not None
    assert (reply.status, REPLY[reply.body : reply.end]) == (200, b'{"a": "\r\n\r\n"}')
    more = parse(REPLY + b"HTTP/1.1 200")
    assert more is not None
    assert more.end == len(REPLY)


def test_other_replies() -> None:
    assert parse(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n") == (503, 40, 40)
    assert parse(b"HTTP/1.1 204 No Content\r\ncontent-length:0\r\n\r\n") == (204, 45, 45)
    for wrong in (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 two OK\r\ncontent-length: 2\r\n\r\n{}",
        b"SSH-2.0\r\ncontent-length: 2\r\n\r\n{}",
    ):
        with pytest.raises(MalformedReplyError):
            parse(wrong)


def test_a_request_says_how_long_it_is() -> None:
    head, _, body = request("/v1/predict", b'{"words": []}').partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/predict HTTP/1.1\r\n")
    assert head.endswith(b"Content-Length: 13")
    assert body == b'{"words": []}'


RATES = {"ours": 3000.0, "position": 2500.0, "logging": 2000.0, "echo": 5000.0, "tutorial": 100.0}


def test_ratios_of_requests_leave_out_what_is_missing() -> None:
    measured = {
        name: {sessions: [{"per_second": rate}] for sessions in (1, 16, 64, 256)} for name, rate in RATES.items()
    }
    rows = ratios(measured).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["0.6", "30", "0.5", "0.4"]
    assert all("LitServe" not in row for row in rows)


def test_shares_of_samples() -> None:
    stacks = (
        "server;main (app/cli.py:3);run (app/engine.py:10) 30\n"
        "server;main (app/cli.py:3);run (app/engine.py:12) 10\n"
        "server;idle (x.py:1) 60"
    )
    whole, own = shares(stacks).split("\n\n")
    assert "| `main (app/cli.py)` | 40.0 |" in whole
    assert "| `run (app/engine.py)` | 40.0 |" in own
    assert "server" not in whole  # every stack begins with it
    assert "main" not in own


def test_imports_are_read_with_their_depth() -> None:
    trace = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       128 |        128 |     numpy.version\n"
        "import time:       400 |        528 |   numpy\n"
        "2026-01-01 INFO ready\n"
        "import time:        72 |        600 | app.main\n"
    )
    assert imports(trace) == [("numpy.version", 2, 128), ("numpy", 1, 528), ("app.main", 0, 600)]


def test_a_text_in_pieces() -> None:
    steps = agreement.grid(np.arange(5), 2)
    assert steps.tolist() == [[0, 3], [1, 4], [2, -1]]


def test_the_likeliest_by_hand() -> None:
    logits = np.random.default_rng(1).normal(size=(3, 50)).astype(np.float32)
    ids, values = likeliest(logits, 4)
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert ids.tolist() == np.argsort(-rows, axis=1)[:, :4].tolist()
    np.testing.assert_allclose(values, np.take_along_axis(rows, ids, axis=1), atol=1e-5)
