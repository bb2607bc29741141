"""How many bytes does the disk take for each SET?

Decides what a write costs a flash card. Sectors written to the file system's own device, as the
kernel counts them: what an edge and redis-server (`appendfsync always`) do with it, by the same
method. Give it a folder on a device that nobody else writes to:

    truncate -s 2G image && mkfs.ext4 -q image && mount -o loop image /mnt
    python -m bench.benchmarks.written /mnt
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.benchmarks.resp import open_edge, open_redis

REQUESTS = 100_000
SECTOR_BYTES = 512


def bytes_written(folder: Path) -> int:
    os.sync()
    device = folder.stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text("ascii")
    return int(stat.split()[6]) * SECTOR_BYTES


def main() -> None:
    root = Path(sys.argv[1])
    for keys in (100_000, 1):
        for pipeline in (16, 1):
            for open_it in (open_edge, open_redis):
                with tempfile.TemporaryDirectory(dir=root) as name, open_it(Path(name)) as port:
                    load = ["redis-benchmark", "-p", str(port), "-t", "set", "-c", "50"]
                    load += ["-d", "256", "-P", str(pipeline), "-q"]
                    load += ["-r", str(keys)] if keys > 1 else []
                    # All keys are there before; and nothing of that is still to be written.
                    subprocess.run([*load, "-n", str(REQUESTS)], capture_output=True, check=True)
                    before = bytes_written(root)
                    subprocess.run([*load, "-n", str(REQUESTS)], capture_output=True, check=True)
                    each = (bytes_written(root) - before) / REQUESTS
                what = f"{open_it.__name__[5:]:6} P={pipeline:2} keys={keys:6}"
                print(f"{what}: {each:6,.0f} bytes a SET", flush=True)


if __name__ == "__main__":
    main()
