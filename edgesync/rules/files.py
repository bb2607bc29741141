"""Chains and device profiles in files: a file, or a folder of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from edgesync.errors import ConfigError, gathered
from edgesync.rules.build import Loaded, Source, build
from edgesync.rules.model import FILE_BYTES_MAX
from edgesync.rules.nodes.profile import ProfileAlarm, alarms_of_profile
from edgesync.rules.read import read_chains
from edgesync.rules.worker.supervisor import ScriptWorker, WorkerGone, is_installed

FILES_MAX: Final = 200


class Rules(msgspec.Struct, kw_only=True):
    """Chains and device profiles, as read from the files.

    profiles  alarm rules of device profiles, by the profile's name
    """

    loaded: Loaded
    profiles: Mapping[str, tuple[ProfileAlarm, ...]]


def paths_of(place: Path) -> list[Path]:
    """Return the files of a place; raises ConfigError when there are none."""
    paths = sorted(place.glob("*.json")) if place.is_dir() else [place]
    if not paths or not all(path.is_file() for path in paths):
        raise ConfigError(
            file="settings", field="rules.chains", problem=f"{place} has no rule chains",
            remedy="name a file, or a folder with exports as *.json; "
            "`edgesync rules default` prints one to begin with",
        )  # fmt: skip
    if len(paths) > FILES_MAX:
        raise ConfigError(
            file="settings", field="rules.chains", problem=f"{place} has {len(paths)} files",
            remedy=f"at most {FILES_MAX}",
        )  # fmt: skip
    return paths


def stamp(place: Path) -> tuple[Any, ...]:
    """Return what changes when a file does."""
    try:
        return tuple(
            (path.name, (found := path.stat()).st_mtime_ns, found.st_size)
            for path in paths_of(place)
        )
    except (ConfigError, OSError):
        return ()


def read_rules(place: Path, *, root: str = "") -> Rules:
    """Return what the files of a place say; raises ConfigError, which has all mistakes at once."""
    files: dict[str, bytes] = {}
    mistakes: list[ConfigError] = []
    for path in paths_of(place):
        try:
            files[path.name] = read_file(path)
        except ConfigError as mistake:
            mistakes.append(mistake)
    return rules_of(files, root=root, mistakes=mistakes)


def rules_of(
    files: Mapping[str, bytes], *, root: str = "", mistakes: Sequence[ConfigError] = (),
    is_here: bool = True,
) -> Rules:  # fmt: skip
    """Return what files say, by their names; raises ConfigError, which has all mistakes at once.

    mistakes  made with other files, to be told with those of these
    is_here   whether the chains are to run here: then scripts need the worker. Elsewhere they are
              compiled if it is installed, and doubted if it is not
    """
    sources, profiles = sources_of(files, mistakes)
    loaded = build(sources, root=root, has_worker=not is_here or is_installed())
    if is_here or is_installed():
        _compile(loaded)
    elif loaded.scripts:
        count = len(loaded.scripts)
        doubt = f"{count} scripts are not compiled here: `pip install 'edgesync[scripts]'`; an edge"
        doubt += " compiles them before it takes them, and needs the same"
        loaded = msgspec.structs.replace(loaded, doubts=(*loaded.doubts, doubt))
    return Rules(loaded=loaded, profiles=profiles)


def sources_of(
    files: Mapping[str, bytes], mistakes: Sequence[ConfigError] = ()
) -> tuple[list[Source], dict[str, tuple[ProfileAlarm, ...]]]:
    """Return the chains in files, and alarm rules by device profile; raises as `rules_of` does."""
    sources: list[Source] = []
    profiles: dict[str, tuple[ProfileAlarm, ...]] = {}
    found = list(mistakes)
    for name, raw in files.items():
        try:
            if b'"profileData"' in raw:
                profiles.update([_profile(raw, name)])
            else:
                sources += [Source(name, chain) for chain in read_chains(raw, name)]
        except ConfigError as mistake:
            found.append(mistake)
    if found:
        raise gathered(found)
    return sources, profiles


def read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            file=path.name, field="(file)", problem=f"cannot be read: {error.strerror}",
            remedy="let the edge's user read it",
        ) from error  # fmt: skip


def _profile(raw: bytes, file: str) -> tuple[str, tuple[ProfileAlarm, ...]]:
    try:
        found = msgspec.json.decode(raw)
        return str(found["name"]), alarms_of_profile(found)
    except (msgspec.DecodeError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            file=file, field="profileData.alarms", problem=str(error)[:200],
            remedy="export the device profile anew",
        ) from error  # fmt: skip


def _compile(loaded: Loaded) -> None:
    """Let the worker compile every script; raises ConfigError with what it says."""
    if not loaded.scripts:
        return
    worker = ScriptWorker(loaded.scripts)
    try:
        problems = worker.check()
    except (WorkerGone, OSError) as gone:
        problems = dict.fromkeys(worker.sources, str(gone))
    finally:
        worker.close()
    labels = {wired.node.place.key: wired.node.place for wired in loaded.chains.nodes.values()}
    mistakes = [
        ConfigError(
            file=labels[key].chain, field=f"{labels[key].name} ({labels[key].type})",
            problem=f"has a script that cannot be compiled: {problem}", remedy="",
        )
        for key, problem in problems.items()
    ]  # fmt: skip
    if mistakes:
        raise gathered(mistakes)
