"""Feed decoders what nobody would send: `python -m tests.fuzz.fuzz --inputs 1000000`.

An input must end in a result or in the decoder's own error; anything else (another exception, a
crash, more memory than the limit, an input that takes seconds) ends the run with the input and its
seed. Targets are the lists TARGETS of the modules tests/fuzz/targets_*.py.
"""

import argparse
import faulthandler
import importlib
import random
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.mutate import mutate

# What a run may take beyond the memory it starts with; the largest result a decoder here may
# return is bounded by 64 MiB of rows.
MEMORY_BYTES = 1 << 30
# Re-armed for every slice of inputs; a slice takes well under a second.
HANG_S = 60
SLICE = 2000


class Target(NamedTuple):
    """A decoder under attack.

    corpus  valid inputs to mutate
    run     decodes one input; may check what came out
    errors  what a decoder may raise
    repair  makes checksums right again, or the fuzzer would only ever test those
    """

    name: str
    corpus: Sequence[bytes]
    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    repair: Callable[[bytes, random.Random], bytes] | None = None


class Tally(NamedTuple):
    accepted: int
    refused: int


class BadOutcomeError(Exception):
    """An input ended in something else than a result or the decoder's error."""


def attack(target: Target, inputs: int, seed: int, *, watch: bool = False) -> Tally:
    """Run `inputs` mutated inputs; raises BadOutcomeError with the input in its text."""
    rng = random.Random(f"{target.name} {seed}")
    accepted = refused = 0
    for i in range(inputs):
        if watch and i % SLICE == 0:
            faulthandler.dump_traceback_later(HANG_S, exit=True)
        data = mutate(target.corpus, rng)
        if target.repair is not None and rng.randrange(4):
            data = target.repair(data, rng)
        try:
            target.run(data)
            accepted += 1
        except target.errors:
            refused += 1
        except BaseException as error:
            raise BadOutcomeError(
                f"{target.name}, seed {seed}, input {i}: {error!r} from {data.hex()}"
            ) from error
    if watch:
        faulthandler.cancel_dump_traceback_later()
    return Tally(accepted, refused)


def all_targets() -> list[Target]:
    """Targets of every module tests/fuzz/targets_*.py."""
    found: list[Target] = []
    for path in sorted(Path(__file__).parent.glob("targets_*.py")):
        found += importlib.import_module(f"tests.fuzz.{path.stem}").TARGETS
    return found


def limit_memory() -> None:
    """Fail an allocation rather than the machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


def main(arguments: Iterable[str]) -> int:
    parser = argparse.ArgumentParser(description="Feed every decoder hostile input.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each decoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="names of decoders begin with this")
    options = parser.parse_args(list(arguments))
    faulthandler.enable()
    targets = [t for t in all_targets() if t.name.startswith(options.only)]
    limit_memory()
    for target in targets:
        begun = time.monotonic()
        tally = attack(target, options.inputs, options.seed, watch=True)
        print(
            f"{target.name}: {options.inputs} inputs in {time.monotonic() - begun:.0f} s, "
            f"{tally.accepted} accepted, {tally.refused} refused, nothing else",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
