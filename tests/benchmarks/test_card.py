import pytest

from tests.benchmarks import card

CARD = """# english

| word | times |
| --- | ---: |
| a | 1 |
| b | 2 |

Prose.

| beginning | continuation |
| --- | --- |
| Hello , | you. |
"""


def test_rows_are_replaced_and_all_else_stays() -> None:
    rows = [["c", "3"], ["d", "4"], ["e", "5"]]
    new = card.filled(CARD, ["word", "times"], rows)
    assert card.cells(new, ["word", "times"]) == rows
    assert new == CARD.replace("| a | 1 |\n| b | 2 |\n", "| c | 3 |\n| d | 4 |\n| e | 5 |\n")
    assert card.filled(new, ["word", "times"], [["a", "1"], ["b", "2"]]) == CARD


def test_a_table_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="0 tables of the card begin with the columns file, words"):
        card.cells(CARD, ["file", "words"])
    with pytest.raises(ValueError, match="2 tables"):
        card.filled(CARD + "\n" + CARD, ["beginning"], [])


def test_continuations_are_drawn_with_the_seed_of_their_row_and_fit_a_table() -> None:
    found = card.continuations(["Hello ,", "A b"], lambda _, seed: f"{seed}\n a | b\n")
    assert found == [["Hello ,", r"0 ¶ a \| b ¶"], ["A b", r"1 ¶ a \| b ¶"]]
