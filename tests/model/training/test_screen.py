"""What is left out of a training text, and what stays."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from model.training import screen as screening
from model.training.data import prepare
from model.training.recipe import Recipe
from model.training.screen import Screen, listed

SLUR = "grnfx"  # a made-up word that the tests put on the list


@pytest.fixture(autouse=True)
def slurs(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = screening.hashlib.blake2b(SLUR.encode(), digest_size=screening._DIGEST_BYTES).hexdigest()
    monkeypatch.setattr(screening, "_SLURS", screening._SLURS | {digest})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Write to jane.doe+news@mail.example.org today.", "e-mail addresses"),
        ("A@b.co", "e-mail addresses"),
        ("Call (202) 418-0069.", "telephone numbers"),
        ("Call 202-418-0069 or write.", "telephone numbers"),
        ("+1 202.418.0069", "telephone numbers"),
        ("my number is 454-0698", "telephone numbers"),
        ("ring +44 20 7946 0958 now", "telephone numbers"),
        ("He lives at 16 Ivy Lane, they say.", "street addresses"),
        ("7 East 42nd Street", "street addresses"),
        ("1600 Pennsylvania Avenue", "street addresses"),
        (f"You {SLUR.upper()}!", "slurs"),
        (f"those {SLUR.capitalize()}-like things", "slurs"),
        # As they are after the tokenizer's normalisation.
        (f"You {SLUR[:2]}\u00ad{SLUR[2:]}!", "slurs"),
        ("Write to j\u200bane@mail.exam\u00adple.org.", "e-mail addresses"),
        ("Call 202\u2011418\u20100069", "telephone numbers"),
        ("ring +44\u00a020\u00a07946\u00a00958 now", "telephone numbers"),
        ("He lives at 16\u00a0Ivy\u00a0Lane.", "street addresses"),
    ],
)
def test_lines_that_go(line: str, why: str) -> None:
    screen = Screen()
    assert screen(f"before\n{line}\nafter") == "before\nafter"
    assert (screen.lines, dict(screen.dropped)) == (3, {why: 1})


@pytest.mark.parametrize(
    "line",
    [
        "From 1998-2004 there were 2,000,000 of them, 3.14159 each.",
        "The war of 1939-1945, pages 100-2004.",
        "Ferdowsi (940\u20131025) was a poet.",
        "In the 2014 Supreme Court term 5 people drove down the street.",
        "user@ and @user, and me @ home",
        "12 Angry Men is a film; 3 Red Lights too.",
        "ISBN 978-3-16-148410-0",
        f"{SLUR}x is another word, and so is x{SLUR}",
        "",
    ],
)
def test_lines_that_stay(line: str) -> None:
    screen = Screen()
    assert screen(line + "\n") == line + "\n"
    assert not screen.dropped


@given(st.text(max_size=200))
def test_what_stays_is_whole_lines_as_they_were(text: str) -> None:
    lines = text.splitlines(keepends=True)
    kept = Screen()(text)
    assert kept == "".join(line for line in lines if Screen()(line))


def test_the_list_can_be_asked_and_not_read() -> None:
    assert listed(SLUR)
    assert not listed("friend")
    for digest in screening._SLURS:
        assert len(bytes.fromhex(digest)) == screening._DIGEST_BYTES


@pytest.mark.parametrize("screened", [True, False])
def test_a_screened_recipe_neither_learns_nor_knows_them(screened: bool, tmp_path: Path) -> None:
    lines = [f"word{number} says hello to everybody here." for number in range(60)]
    lines[30] = f"You {SLUR}, call 202-418-0069."
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines) + "\n")
    recipe = Recipe.model_validate(
        {
            "name": "screened",
            "description": "",
            "data": {"policy": "english", "simple_sequence": True, "screened": screened},
            "network": {"kind": "gru", "embedding_size": 2, "hidden_sizes": [2]},
            "training": {"epochs": 1, "batch_size": 2, "window": 3, "learning_rate": 0.1, "gradient_clipping": 1},
        }
    )
    shown = io.StringIO()
    data = prepare(recipe, text, tmp_path / "out", resume=False, console=Console(file=shown, width=200))
    assert (SLUR in data.tokenizer.vocabulary) is not screened
    assert ("418" in data.tokenizer.vocabulary) is not screened
    assert ("left out: 1 for slurs" in shown.getvalue()) is screened
