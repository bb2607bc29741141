"""Objects of an edge on its disk: drafts that go on, contents that are what they are called."""

import hashlib
from pathlib import Path

import pytest

from edgesync.objects.files import INDEX, Index, ObjectFiles
from edgesync.objects.model import Listing, ObjectRef, listing_of

pytestmark = pytest.mark.feature("S22")

DATA = b"a large object" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
REF = ObjectRef("model", SHA256, len(DATA))


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "objects")


def test_a_draft_goes_on_where_it_was_and_appears_whole(files: ObjectFiles) -> None:
    assert (files.begin(REF), files.load(), files.drafts()) == (0, Index(), {})
    files.write(SHA256, 0, DATA[:100])
    again = ObjectFiles(files.folder)
    assert (again.drafts(), again.begin(REF)) == ({SHA256: 100}, 100)
    again.write(SHA256, 100, DATA[100:])
    assert not again.path(SHA256).exists()
    assert again.finish(SHA256)
    assert again.path(SHA256).read_bytes() == DATA
    assert again.drafts() == {}


@pytest.mark.parametrize("wrong", [DATA[:-1], DATA[:-1] + b"x", DATA + b"x"])
def test_what_is_not_what_its_name_says_is_never_kept(files: ObjectFiles, wrong: bytes) -> None:
    files.begin(REF)
    files.write(SHA256, 0, wrong)
    assert not files.finish(SHA256)
    assert list(files.folder.iterdir()) == []


def test_a_draft_is_cut_to_where_it_goes_on_and_begins_anew_if_it_is_too_long(
    files: ObjectFiles,
) -> None:
    files.begin(REF)
    files.write(SHA256, 0, DATA + b"and more")
    assert files.begin(REF) == 0
    files.write(SHA256, 0, DATA[:50])
    files.write(SHA256, 20, DATA[20:30])
    assert files.drafts() == {SHA256: 30}


def test_the_index_is_of_what_is_there(files: ObjectFiles) -> None:
    index = Index(listing_of([REF]), (REF,))
    files.save(index)
    assert files.load() == Index(index.listing, ())  # the contents are gone, and come again
    files.path(SHA256).write_bytes(DATA)
    assert files.load() == index
    (files.folder / INDEX).write_bytes(b"{")
    assert files.load() == Index()


def test_nothing_is_left_of_what_is_not_wanted(files: ObjectFiles) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    files.save(Index(Listing(), (REF,)))
    for name in (SHA256, other, f"{other}.part", f"{'0' * 64}.part", f"{INDEX}.draft"):
        (files.folder / name).write_bytes(b"x")
    (files.folder / f"{other}.part").unlink()
    files.tidy({"model": REF}, other)
    left = {path.name for path in files.folder.iterdir()}
    assert left == {SHA256, f"{other}.part", INDEX}  # renamed before a kill: a draft again


def test_what_is_somebody_elses_stays(files: ObjectFiles) -> None:
    """A disk of its own has a folder of the file system's."""
    files.save(Index(Listing(), (REF,)))
    (files.folder / "lost+found").mkdir(mode=0o700)
    (files.folder / "README").write_bytes(b"x")
    files.tidy({"model": REF}, "")
    left = {path.name for path in files.folder.iterdir()}
    assert left == {"lost+found", "README", INDEX}
