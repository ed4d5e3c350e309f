"Text tables are the same on every terminal and print every character as it is."

import pytest

from mvl_bench.core import text_table


@pytest.mark.parametrize("columns", ["20", "300"])
def test_the_width_and_colours_of_the_terminal_change_nothing(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    sentence = "a sentence that is longer than the narrow terminal " * 20
    assert text_table([("loss", 0.5, sentence)], ".2f") == f"loss  0.50  {sentence}".rstrip()


def test_every_character_is_printed_as_it_is():
    rows = [("[bold]a[/bold]", ":smile: [MASK]"), ("[/]", "https://a.b/c 1.5")]
    lines = text_table(rows).splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [list(row) for row in rows]


def test_short_rows_blanks_intervals_and_whole_numbers():
    rows = [("", "n", "95 %"), ("a", 12345, [0.1, -0.2]), ("bc", None, "text"), ("d",)]
    assert text_table(rows, ".1f", "+.1f").splitlines() == [
        "        n          95 %",
        "a   12345  +0.1 to -0.2",
        "bc                 text",
        "d",
    ]
    assert text_table([]) == text_table(iter(())) == ""


def test_wide_characters_take_two_columns():
    assert text_table([("猫", 1), ("cat", 2)], "d") == "猫   1\ncat  2"
