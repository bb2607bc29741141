"""Asks a hub for the newest value of a series until it is what was committed; a process of its own.

    asker URL

On stdin come a count and when it was committed (`time.perf_counter`), a line each; for each line
one with the seconds until the answer that shows it was read. It is as cheap as asking can be: what
it takes is part of what is measured, and it may not take the edge's processor time.
"""

import http.client
import json
import sys
import time
from urllib.parse import urlsplit

PATH = "/api/v1/edges/edge/latest?limit=1"
LOOK_S = 0.001


def main(url: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    for line in sys.stdin:
        count, committed = line.split()
        while shown(connection) < float(count):
            time.sleep(LOOK_S)
        sys.stdout.write(f"{time.perf_counter() - float(committed)}\n")
        sys.stdout.flush()


def shown(connection: http.client.HTTPConnection) -> float:
    connection.request("GET", PATH)
    found = json.load(connection.getresponse())["latest"].get("probe")
    return found["count"]["value"] if found else -1.0


if __name__ == "__main__":
    main(sys.argv[1])
