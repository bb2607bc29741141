"""Where this process stands in the control groups: v1, v2, or both side by side (hybrid)."""

from collections.abc import Iterator
from pathlib import Path

from edgesync.resources.kernel import read_text


def folders(root: Path, controller: str) -> tuple[int, list[Path]]:
    """Return the version that has the controller, and the group's folders up to the root's.

    root   of the file system: `/`, or a tree of fixtures

    The version is 0 and the list empty where there are no control groups. In a container the path
    may be the host's, of which only the last parts, or none, are mounted: folders that do not exist
    are left out, the mount itself remains.
    """
    groups = dict(_groups(read_text(root / "proc/self/cgroup") or ""))
    mounts = root / "sys/fs/cgroup"
    if controller in groups:
        return _existing(1, mounts / controller, groups[controller])
    if "" in groups:
        is_hybrid = not (mounts / "cgroup.controllers").exists()
        return _existing(2, mounts / "unified" if is_hybrid else mounts, groups[""])
    return 0, []


def _groups(text: str) -> Iterator[tuple[str, str]]:
    """Controller and path of every line `id:controllers:path`; v2's controller is empty."""
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            yield from ((one, parts[2]) for one in parts[1].split(","))


def _existing(version: int, mount: Path, path: str) -> tuple[int, list[Path]]:
    # `..` stands for groups above the namespace, which cannot be seen from here.
    parts = [one for one in path.split("/") if one not in ("", ".", "..") and "\0" not in one]
    inside = [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return version, [one for one in inside if _is_folder(one)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
