"""Build every native/*.pyx into edgesync._native.*, with LMDB and LZ4 linked in.

Their C sources are not ours to keep: they are taken at build time from two source distributions,
pinned by version and hash. The LMDB in `lmdb` carries patches that turn a damaged file into an
error where the plain library crashes the process, so it is preferred over the system's one.

EDGESYNC_SYSTEM_LIBS=1 links the system's liblmdb and liblz4 (pkg-config) instead; the same happens,
with a warning, when no package index can be reached. `store.versions()` reports which it was.
"""

import ast
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
CACHE = ROOT / ".cache" / "sdists"
UNPACKED = Path("build") / "sources"  # relative: setuptools derives object paths from it
# For what that distribution's patches leave open.
OUR_PATCH = ROOT / "native" / "lmdb-damaged-pages.patch"

# name -> (version, sha256 of its source distribution)
PINNED = {
    "lmdb": ("3.0.0", "06dda0723545e14d56ac7dcd6f582d9922c2ed5e16f1c3f8d0e670a96ec2ee65"),
    "lz4": ("4.4.5", "5f0b9e53c1e82e88c10d7c180069363980136b9d7a8306c4dca4f760d60c39f0"),
}


def say(text: str) -> None:
    print(f"edgesync build: {text}", file=sys.stderr)


def intact(archive: Path, digest: str) -> bool:
    return archive.is_file() and hashlib.sha256(archive.read_bytes()).hexdigest() == digest


def download(name: str) -> Path | None:
    """Return the pinned source distribution of `name`, or None where it cannot be had.

    Through pip, so that mirrors, proxies and certificates are those the user has configured.
    """
    version, digest = PINNED[name]
    archive = CACHE / f"{name}-{version}.tar.gz"
    if intact(archive, digest):
        return archive
    CACHE.mkdir(parents=True, exist_ok=True)
    # Only this one name as source: pip prepares its metadata, and what that needs (setuptools)
    # should come as wheels.
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--no-binary", name, "--dest", str(CACHE), f"{name}=={version}"),
    ]
    for attempt in (1, 2):
        # pip runs the distribution's setup.py for its metadata; as "pure" it does not call
        # patch(1), which a bare Debian has not. The sources are the same either way.
        environment = {**os.environ, "LMDB_PURE": "1"}
        if subprocess.call(command, stdout=sys.stderr, env=environment) == 0:
            break
        say(f"attempt {attempt} to fetch {name} {version} failed")
    if intact(archive, digest):
        return archive
    if archive.is_file():
        raise SystemExit(f"{archive}: its hash is not the pinned one; delete it and build again")
    return None


def unpack(name: str) -> Path | None:
    """Return the directory of the unpacked sources, relative to the project."""
    archive = download(name)
    if archive is None:
        return None
    target = UNPACKED / archive.name.removesuffix(".tar.gz")
    done = ROOT / target / ".ready"
    ours = hashlib.sha256(OUR_PATCH.read_bytes()).hexdigest() if name == "lmdb" else ""
    if not done.exists() or done.read_text() != ours:
        shutil.rmtree(ROOT / target, ignore_errors=True)
        (ROOT / UNPACKED).mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            # Debian 12's Python 3.11.2 has no filters yet; the archive's hash is pinned anyway.
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(ROOT / UNPACKED, **safely)
        if name == "lmdb":
            patch_lmdb(ROOT / target)
        done.write_text(ours)
    return target


def patch_lmdb(tree: Path) -> None:
    """Apply the series that the distribution's own setup.py applies, in its order, then ours."""
    import patch_ng  # the tool that distribution uses too, where there is no patch(1)

    series = re.search(r"name='v09'.*?patch_names=(\[.*?\])", (tree / "setup.py").read_text(), re.S)
    if series is None:
        raise SystemExit(f"{tree}/setup.py: the list of patches is not where it was")
    theirs = tree / "lib" / "py-lmdb"
    names = ast.literal_eval(series.group(1))
    for path in (*(theirs / f"{name}.patch" for name in names), OUR_PATCH):
        patch = patch_ng.fromfile(str(path))
        if not patch or not patch.apply(2, root=str(tree / "lib")):
            raise SystemExit(f"{tree}: {path.name} does not apply")


def pkg_config(name: str, *flags: str) -> list[str]:
    try:
        answer = subprocess.run(
            ["pkg-config", *flags, name], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"neither the source distribution of {name.removeprefix('lib')} nor the system's "
            f"{name} is there ({error}); connect to a package index, or install "
            f"lib{name.removeprefix('lib')}-dev"
        ) from None
    return answer.stdout.split()


def library(name: str) -> dict[str, list]:
    """Return the Extension arguments that link `name`."""
    system = os.environ.get("EDGESYNC_SYSTEM_LIBS") == "1"
    tree = None if system else unpack(name)
    if tree is None:
        package = {"lmdb": "lmdb", "lz4": "liblz4"}[name]
        version = pkg_config(package, "--modversion")[0]
        say(f"WARNING: linking the system's {name} {version}, without the patches")
        return {
            "define_macros": [(f"EDGESYNC_{name.upper()}_FROM", '"the system"')],
            "extra_compile_args": pkg_config(package, "--cflags"),
            "extra_link_args": pkg_config(package, "--libs"),
        }
    say(f"linking {name} from {tree.name}")
    folder, files = {"lmdb": ("lib", ("mdb.c", "midl.c")), "lz4": ("lz4libs", ("lz4.c",))}[name]
    macros = [(f"EDGESYNC_{name.upper()}_FROM", f'"{tree.name}.tar.gz"')]
    if name == "lmdb":
        macros.append(("HAVE_PATCHED_LMDB", "1"))
    else:
        macros.append(("LZ4LIB_VISIBILITY", ""))
    return {
        "sources": [str(tree / folder / file) for file in files],
        "include_dirs": [str(tree / folder)],
        "define_macros": macros,
    }


def extensions() -> list[Extension]:
    known: dict[str, dict[str, list]] = {}
    result = []
    for source in sorted((ROOT / "native").glob("*.pyx")):
        arguments: dict[str, list] = {
            "sources": [f"native/{source.name}"],
            # Hidden: two extensions may each carry a copy of lz4.c.
            "extra_compile_args": [
                *("-O3", "-fvisibility=hidden"),
                # Equal bytes on every machine: a fused multiply-add rounds once where others round
                # twice, and aarch64 has it in its baseline.
                "-ffp-contract=off",
                *("-Wno-sign-compare", "-Wno-maybe-uninitialized"),
            ],
            "extra_link_args": [],
            "include_dirs": ["native"],
            "define_macros": [],
        }
        text = source.read_text()
        # LMDB is linked into `store` alone, which lends it to the others (native/README.md): an
        # environment must be opened once in a process, by one copy of the library.
        for name, needed in (
            ("lmdb", source.stem in ("store", "journal", "overlay", "write", "intake")),
            ("lz4", re.search(r"^\s*(?:cimport|from)\s+(?:\w+\.)*lz4\b", text, re.M)),
        ):
            if not needed:
                continue
            if name not in known:
                known[name] = library(name)
            for key, value in known[name].items():
                if name == "lz4" or source.stem == "store" or key == "include_dirs":
                    arguments[key] = arguments[key] + value
        result.append(Extension(f"edgesync._native.{source.stem}", **arguments))
    return cythonize(
        result,
        include_path=["native", "."],
        build_dir="build/cython",
        nthreads=min(os.cpu_count() or 1, 8),
        # No methods for pickle and no __test__: the stubs say all there is.
        compiler_directives={"language_level": "3", "auto_pickle": False, "autotestdict": False},
        show_all_warnings=False,
    )


def fetch_assets() -> None:
    """Put the dashboard's scripts where the distribution is made from, so that it carries them."""
    sys.path.insert(0, str(ROOT))
    from hubd.web import assets

    try:
        assets.fetch()
    except assets.AssetError as error:
        raise SystemExit(f"edgesync build: {error}") from None


class BuildPython(build_py):
    def run(self) -> None:
        if not self.editable_mode:
            fetch_assets()
        super().run()


class SourceDistribution(sdist):
    def run(self) -> None:
        fetch_assets()
        super().run()


def main() -> None:
    if sys.maxsize < 2**32:
        raise SystemExit(
            "edgesync needs a 64-bit system, and this Python is a 32-bit one "
            f"({platform.machine()}): install a 64-bit operating system"
        )
    os.chdir(ROOT)
    # Metadata needs no compiler; nor does the Makefile's editable install, which builds afterwards.
    without = os.environ.get("EDGESYNC_SKIP_NATIVE") == "1"
    without = without or bool(
        {"--version", "--name", "egg_info", "dist_info", "sdist"} & set(sys.argv)
    )
    setup(
        ext_modules=[] if without else extensions(),
        cmdclass={"build_py": BuildPython, "sdist": SourceDistribution},
    )


# A worker of cythonize may import this file again.
if __name__ == "__main__":
    main()
