"""A private Redis to compare with, from Debian's package."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis


@contextmanager
def open_redis(folder: Path) -> Iterator[Path]:
    """Start one that keeps nothing; yields the path of its socket."""
    program = shutil.which("redis-server")
    assert program, "no redis-server: apt install redis-server"
    path = folder / "redis.sock"
    process = subprocess.Popen(
        [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        client = redis.Redis(unix_socket_path=str(path))
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        client.close()
        yield path
    finally:
        process.kill()
        process.wait()
