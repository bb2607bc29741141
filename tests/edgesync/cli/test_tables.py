"""Tables are as wide as whoever reads them."""

import pytest
from rich.table import Table

from edgesync.cli.tables import print_table

WORDS = "x" * 150


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    table = Table("lane", "body")
    table.add_row("normal", WORDS)
    print_table(table)
    return capsys.readouterr().out


def test_what_is_read_by_a_program_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert WORDS in shown(capsys)


@pytest.mark.parametrize(("columns", "is_whole"), [(200, True), (80, False)])
def test_a_screen_says_how_wide_it_is(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    is_whole: bool,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    found = shown(capsys)
    assert (WORDS in found) is is_whole
    assert max(map(len, found.splitlines())) <= columns
