"""How many commands a second does an edge answer, every write on disk before its reply?

Decides whether a shop's tills can write to the edge as they would to a local Redis. Beside it, in
the same run, redis-server with `appendfsync always` on the same disk: figures are ratios too.

`one key` is how redis-benchmark comes; with 100,000 keys each commit touches as many pages.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from edgesync.demo.site import free_ports

REQUESTS = {1: 40_000, 16: 400_000}


@contextmanager
def open_edge(
    folder: Path, preset: str = "", *, program: Sequence[str] = ("-m", "edgesync"),
    is_killed: bool = False,
) -> Iterator[int]:  # fmt: skip
    (port,) = free_ports(1)
    config = folder / "edge.toml"
    config.write_text(f'[http]\nport = 0\n[cells]\nport = {port}\npreset = "{preset}"\n')
    command = [sys.executable, *program, "--config", str(config), "run"]
    with running(command, folder, port, is_killed=is_killed):
        yield port


@contextmanager
def open_redis(folder: Path) -> Iterator[int]:
    (port,) = free_ports(1)
    options = ["--port", str(port), "--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with running(["redis-server", *options, "--dir", str(folder)], folder, port):
        yield port


@contextmanager
def running(
    command: list[str], folder: Path, port: int, *, is_killed: bool = False
) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(500):
            ping = ["redis-cli", "-p", str(port), "ping"]
            if subprocess.run(ping, capture_output=True).stdout == b"PONG\n":
                break
            time.sleep(0.02)
        yield
    finally:
        (process.kill if is_killed else process.terminate)()
        process.wait()


def per_s(port: int, command: str, pipeline: int, keys: int) -> float:
    spread = ["-r", str(keys)] if keys > 1 else []
    done = subprocess.run(
        ["redis-benchmark", "-p", str(port), "-t", command, "-n", str(REQUESTS[pipeline]),
         "-c", "50", "-d", "256", "-P", str(pipeline), "-q", *spread],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(re.findall(r"([0-9.]+) requests per second", done.stdout)[-1])


class Commands:
    params: ClassVar = [["set", "get"], [1, 16], [1, 100_000]]
    param_names: ClassVar = ["command", "pipeline", "keys"]
    timeout = 300
    unit = "commands/s"

    def track_commands_per_s(self, command: str, pipeline: int, keys: int) -> float:
        with tempfile.TemporaryDirectory() as folder, open_edge(Path(folder)) as port:
            return per_s(port, command, pipeline, keys)


def main() -> None:
    for keys in (1, 100_000):
        for pipeline in (1, 16):
            for command in ("set", "get"):
                edge, redis = [], []
                with (
                    tempfile.TemporaryDirectory() as one,
                    tempfile.TemporaryDirectory() as two,
                    open_edge(Path(one)) as ours,
                    open_redis(Path(two)) as theirs,
                ):
                    for _ in range(5):
                        edge.append(per_s(ours, command, pipeline, keys))
                        redis.append(per_s(theirs, command, pipeline, keys))
                ours_s, theirs_s = statistics.median(edge), statistics.median(redis)
                print(
                    f"{command} P={pipeline:2} keys={keys:6}: edge {ours_s:9,.0f}/s  "
                    f"redis {theirs_s:9,.0f}/s  ratio {ours_s / theirs_s:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
