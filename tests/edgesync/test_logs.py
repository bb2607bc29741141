"""A fault that goes on is told once a minute, and hides no other."""

import io
import json
import logging
import subprocess
import sys

import pytest

from edgesync.logs import KIND_LINES_MAX, SUBJECT_CHARS_MAX, RepeatFilter

pytestmark = pytest.mark.feature("F28")


class Lines:
    def __init__(self, clock: list[float]) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.addFilter(RepeatFilter(lambda: clock[0]))
        self.log = logging.Logger("test")
        self.log.addHandler(self.handler)

    def take(self) -> list[str]:
        lines = self.stream.getvalue().splitlines()
        self.stream.seek(0)
        self.stream.truncate()
        return lines


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def lines(clock: list[float]) -> Lines:
    return Lines(clock)


def test_the_first_line_comes_and_then_one_a_minute_with_a_count(
    clock: list[float], lines: Lines
) -> None:
    for second in range(150):
        clock[0] = 1000.0 + second
        lines.log.error("batches not stored: edge=%s %s", "barn", OSError(f"no room, {second}"))
    assert lines.take() == [
        "batches not stored: edge=barn no room, 0",
        "batches not stored: edge=barn no room, 60 (59 more like it)",
        "batches not stored: edge=barn no room, 120 (59 more like it)",
    ]


def test_a_fault_of_one_hides_none_of_another(clock: list[float], lines: Lines) -> None:
    for edge in ("a", "b", "a", "b"):
        lines.log.warning("no session: edge=%s %s", edge, "why")
        lines.log.error("no answer: %s", edge)
    assert lines.take() == [
        "no session: edge=a why", "no answer: a", "no session: edge=b why", "no answer: b",
    ]  # fmt: skip


def test_names_from_outside_fill_no_disk(clock: list[float], lines: Lines) -> None:
    for number in range(5000):
        lines.log.warning("cut off: %s", f"192.0.2.1:{number}")
    assert len(lines.take()) == KIND_LINES_MAX
    clock[0] += 60
    lines.log.warning("cut off: %s", "192.0.2.1:1")
    assert len(lines.take()) == 1


def test_a_traceback_that_comes_again_and_again_is_written_once(
    clock: list[float], lines: Lines
) -> None:
    for _ in range(10):
        try:
            raise RuntimeError("a mistake of ours")
        except RuntimeError:
            lines.log.exception("a request failed")
    assert "\n".join(lines.take()).count("Traceback") == 1


def test_a_fault_is_told_from_others_by_its_subject_alone(clock: list[float], lines: Lines) -> None:
    for number in range(10):
        lines.log.warning("%s: no answer from %s", "barn", f"192.0.2.1:{number}")
        lines.log.warning("%s: cut off", "x" * SUBJECT_CHARS_MAX + str(number))
    assert len(lines.take()) == 2


def test_a_link_that_flaps_is_told_by_kind_and_every_edge_is_told(
    clock: list[float], lines: Lines
) -> None:
    for _ in range(10):
        for edge in range(200):
            for kind in ("connected", "lost"):
                lines.log.info("link: edge=%s %s %s", str(edge), kind, {"epoch": 1})
    assert len(lines.take()) == 400


def test_a_program_writes_lines_of_json_and_a_fault_that_goes_on_once() -> None:
    program = (
        "import logging\n"
        "from edgesync.logs import set_up_logging\n"
        "set_up_logging(logging.INFO, as_json=True)\n"
        "for _ in range(3):\n"
        "    logging.getLogger('a').error('%s: gone', 'barn')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    (line,) = (json.loads(line) for line in done.stderr.splitlines())
    assert (line["level"], line["logger"], line["message"]) == ("error", "a", "barn: gone")
