"""The project's own promises about itself: what is declared is what is imported, and the like."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
# They run with libraries of their own.
PROGRAMS = ROOT / "tests" / "compat" / "programs"
OURS = {"edgesync", "edgesync_transport", "hubd", "tests", "bench"}


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def names(requirements: list[str]) -> set[str]:
    """Return what distributions are asked for, but for this project's own extras."""
    return {canonical(re.split(r"[\[<>=!~; ]", one)[0]) for one in requirements} - {"edgesync"}


# What is installed with an edge, and what somebody who installs extras may have.
EDGE = names(PROJECT["project"]["dependencies"])
SHIPPED = EDGE.union(*(names(extra) for name, extra in EXTRAS.items() if name != "dev"))
EVERYTHING = SHIPPED | names(EXTRAS["dev"])


def imports(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that are imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def foreign(folder: str) -> dict[str, Path]:
    """Packages from elsewhere that are imported below `folder`, each with a file that does."""
    return {
        package: path
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(PROGRAMS)
        for name in imports(ast.parse(path.read_text()))
        if (package := name.partition(".")[0]) not in OURS | set(sys.stdlib_module_names)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "declared"),
    [
        # What an extra brings is imported when it is asked for; test_an_edge_needs_… sees to that.
        ("edgesync", SHIPPED),
        ("transport/edgesync_transport", EDGE),
        ("hubd", SHIPPED),
        ("tests", EVERYTHING),
        ("bench", EVERYTHING),
    ],
)
def test_everything_imported_is_declared(folder: str, declared: set[str]) -> None:
    distributions = importlib.metadata.packages_distributions()
    for package, path in foreign(folder).items():
        assert declared & {canonical(one) for one in distributions.get(package, [])}, (
            f"{path.relative_to(ROOT)} imports {package}, which pyproject.toml does not declare"
        )


# Run without what is only in an extra.
EDGE_ONLY = """
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Missing())
"""


def without_extras(program: str) -> subprocess.CompletedProcess[str]:
    """Run Python where only the libraries of an edge are installed."""
    distributions = importlib.metadata.packages_distributions()
    blocked = {
        package
        for package, parts in distributions.items()
        if {canonical(one) for one in parts} & (EVERYTHING - EDGE)
    }
    text = EDGE_ONLY.format(blocked=blocked) + program
    return subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_an_edge_needs_no_library_of_an_extra() -> None:
    done = without_extras("""
import edgesync
for module in pkgutil.walk_packages(edgesync.__path__, "edgesync."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
""")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_hub_without_its_libraries_says_what_to_install() -> None:
    done = without_extras("""
sys.argv = ["hubd", "run"]
from hubd.cli import main
main()
""")
    assert done.returncode == 69
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'edgesync[hub]'" in done.stderr


def claims() -> set[str]:
    """Return the modules whose docstring says that they touch no socket, clock or chance."""
    found = set()
    for root in (ROOT, ROOT / "transport"):
        for package in ("edgesync", "hubd", "edgesync_transport"):
            for path in (root / package).rglob("*.py"):
                said = ast.get_docstring(ast.parse(path.read_text())) or ""
                if "[sans-IO]" in said or "I13" in said:
                    module = ".".join(path.relative_to(root).with_suffix("").parts)
                    found.add(module.removesuffix(".__init__"))
    return found


@pytest.mark.slow
def test_every_module_that_claims_to_be_a_core_is_held_to_it() -> None:
    (contract,) = (
        one for one in PROJECT["tool"]["importlinter"]["contracts"] if "(I13)" in one["name"]
    )
    held = tuple(contract["source_modules"])
    loose = {
        module
        for module in claims()
        if not any(module == one or module.startswith(one + ".") for one in held)
    }
    assert not loose, "add them to the contract (I13) in pyproject.toml"
