"""One LMDB environment: what a write is, and what keeps a directory from being opened."""

import contextlib
import multiprocessing
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from edgesync._native.journal import Journal
from edgesync._native.store import Store, Write, versions
from edgesync.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreUnwritable
from edgesync.errors import StoreVersion as NewerVersion
from edgesync.store.directory import META, META_AT

BULK = 2
# Stores are as large in pages everywhere: some machines have pages of 16 or 64 KiB.
LARGE = os.sysconf("SC_PAGE_SIZE") // 4096


def opened(path: Path, **options: object) -> Store:
    return Store(str(path), databases=("lanes", "meta", "things"), **options)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "store") as store:
        yield store


def put(store: Store, key: bytes, value: bytes) -> None:
    write = Write()
    write.put("things", key, value)
    store.apply(write)


def test_what_is_written_is_there_after_opening_again(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        put(store, b"a", b"1")
    with opened(tmp_path / "store") as store:
        assert store.get("things", b"a") == b"1"
        assert store.get("things", b"b") is None


@pytest.mark.feature("S2")
def test_a_write_is_all_or_nothing(store: Store) -> None:
    write = Write()
    write.put("things", b"a", b"1")
    write.append(BULK, 1, b"fact")
    write.mark(BULK, 2, 0)  # beyond the tail: refuses the whole write
    with pytest.raises(ValueError, match="beyond the tail"):
        store.apply(write)
    assert store.get("things", b"a") is None
    assert Journal(store).state(BULK).tail == 0


def test_a_failed_write_can_be_tried_again_a_done_one_cannot(store: Store) -> None:
    write = Write()
    write.mark(BULK, 1, 0)
    with pytest.raises(ValueError, match="tail"):
        store.apply(write)
    first = Write()
    first.append(BULK, 1, b"fact")
    store.apply(first)
    store.apply(write)
    with pytest.raises(ValueError, match="carried out"):
        store.apply(write)
    with pytest.raises(ValueError, match="carried out"):
        write.put("things", b"a", b"1")


def test_writes_join_into_one(store: Store) -> None:
    one, two = Write(), Write()
    one.put("things", b"a", b"1")
    one.append(BULK, 1, b"x")
    two.append_many(BULK, 1, [b"y", b"z"])
    two.delete("things", b"a")
    joined = Write()
    joined.extend(one)
    joined.extend(two)
    assert (len(joined), joined.appends, joined.nbytes) == (5, (0, 0, 3), 6)
    assert store.apply(joined) == (0, 0, 3)
    assert store.get("things", b"a") is None


def test_rows_of_a_dict_are_put_and_deleted_in_any_order(store: Store) -> None:
    random = Random(1)
    meant: dict[bytes, bytes] = {}
    for turn in range(20):
        rows: dict[bytes, bytes | None] = {
            random.randbytes(random.randrange(1, 4)): (
                random.randbytes(random.randrange(2000)) if random.random() < 0.7 else None
            )
            for _ in range(random.randrange(300))
        }
        write = Write()
        write.put("things", b"first", b"%d" % turn)
        write.put_all("things", rows)
        write.put_all("things", {b"last": b"%d" % turn, b"first\0": None})
        meant |= {b"first": b"%d" % turn}
        for key, value in rows.items():
            meant.pop(key, None)
            if value is not None:
                meant[key] = value
        rows.clear()  # they are the write's own by now
        meant |= {b"last": b"%d" % turn}
        if turn % 2:
            joined = Write()
            joined.delete("things", b"last")
            joined.extend(write)
            write = joined
        store.apply(write)
        assert dict(store.scan("things", limit=10_000)) == meant


def test_rows_of_a_dict_are_refused_as_others_are(store: Store) -> None:
    write = Write()
    with pytest.raises(ValueError, match="a key of 0 bytes"):
        write.put_all("things", {b"": b"1"})
    with pytest.raises(TypeError):
        write.put_all("things", {b"k": "text"})  # type: ignore[dict-item]
    assert len(write) == 0
    # Tried again after a failure, sorted already.
    write.put_all("things", {b"%d" % n: b"x" for n in range(50)})
    write.mark(BULK, 2, 0)
    with pytest.raises(ValueError, match="beyond the tail"):
        store.apply(write)
    again = Write()
    again.put_all("things", {b"b": b"1", b"a": b"2"})
    again.clear()
    store.apply(again)
    assert store.count("things") == 0


def test_the_size_of_a_tree_and_the_room_beside_it_are_known(tmp_path: Path) -> None:
    with opened(tmp_path / "store", map_bytes_max=LARGE << 22) as store:
        assert store.tree_bytes("things") == 0
        room = store.room_bytes
        assert LARGE << 21 < room < LARGE << 22
        write = Write()
        write.put_all("things", {b"%05d" % n: bytes(100) for n in range(5000)})
        store.apply(write)
        assert 500_000 < store.tree_bytes("things") < 1_200_000
        assert store.room_bytes <= room - store.tree_bytes("things")
        write = Write()
        write.put_all("things", {b"%05d" % n: None for n in range(5000)}, essential=True)
        store.apply(write)
        assert store.tree_bytes("things") == 0


def test_scan_goes_both_ways_within_limits(store: Store) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        put(store, key, key * 10)
    keys = [key for key, _ in store.scan("things", b"b", b"d")]
    assert keys == [b"b", b"c"]
    assert [key for key, _ in store.scan("things", b"b", b"d", reverse=True)] == [b"c", b"b"]
    assert [key for key, _ in store.scan("things", reverse=True, limit=2)] == [b"d", b"c"]
    assert [key for key, _ in store.scan("things", limit_bytes=23)] == [b"a", b"b"]
    assert store.scan("things", b"e") == []
    assert store.scan("things", b"", b"") == []
    assert store.count("things") == 4


def test_integer_keys_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s"), databases=(), integer_databases=("n",)) as store:
        write = Write()
        for number in (300, 2, 70_000, 1):
            write.put("n", number.to_bytes(8, "little"), b"")
        store.apply(write)
        found = [int.from_bytes(key, "little") for key, _ in store.scan("n")]
        assert found == [1, 2, 300, 70_000]
        bad = Write()
        bad.put("n", b"short", b"")
        with pytest.raises(ValueError, match="size"):
            store.apply(bad)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda write: write.put("things", b"", b"v"), "key"),
        (lambda write: write.put("things", b"k" * 512, b"v"), "key"),
        (lambda write: write.append(3, 1, b""), "lane"),
        (lambda write: write.append(-1, 1, b""), "lane"),
    ],
)
def test_what_cannot_be_stored_is_refused_at_once(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Write())  # type: ignore[operator]


def test_an_unknown_database_is_an_error(store: Store) -> None:
    write = Write()
    write.put("nowhere", b"k", b"v")
    with pytest.raises(ValueError, match="nowhere"):
        store.apply(write)
    with pytest.raises(ValueError, match="nowhere"):
        store.get("nowhere", b"k")


def test_a_copy_is_a_store(store: Store, tmp_path: Path) -> None:
    put(store, b"a", b"1")
    store.copy(str(tmp_path / "copy"))
    with opened(tmp_path / "copy") as copy:
        assert copy.get("things", b"a") == b"1"


def resident_kb(path: Path) -> int:
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0]:
            inside = fields[-1] == str(path)
        elif inside and fields[0] == "Rss:":
            total += int(fields[1])
    return total


def test_released_pages_are_no_longer_resident(store: Store) -> None:
    write = Write()
    write.append_many(BULK, 1, [bytes(1000)] * 5000)
    store.apply(write)
    Journal(store).read(BULK, 1, limit_bytes=32 << 20)
    data = Path(store.path) / "data.mdb"
    before = resident_kb(data)
    store.release_pages()
    assert resident_kb(data) < before // 4
    assert len(Journal(store).read(BULK, 1, limit_records=1)) == 1


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        put(store, b"a", b"1")
    with pytest.raises(StoreError, match="closed"):
        store.get("things", b"a")


def test_many_threads_write_and_read_at_once(store: Store) -> None:
    failures: list[BaseException] = []

    def work(lane: int) -> None:
        try:
            for number in range(50):
                write = Write()
                write.append(lane, 1, b"%d" % number)
                store.apply(write)
                Journal(store).read(lane, 1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in (0, 1, 2, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [Journal(store).state(lane).tail for lane in range(3)] == [50, 50, 100]


def test_versions_name_what_is_linked() -> None:
    found = versions()
    assert found["lmdb"].startswith("LMDB 0.9.")
    assert set(found) == {"lmdb", "lmdb_from", "lz4", "lz4_from"}


# Who may open a directory


HOLDER = """
import sys
from edgesync._native.store import Store
store = Store(sys.argv[1], databases=("lanes", "things"))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_directory_has_one_owner_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "store"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder:
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(StoreLocked) as caught:
            opened(path)
        assert caught.value.pid == holder.pid
        with opened(path, readonly=True) as reader:  # looking on is allowed
            assert reader.get("things", b"a") is None
        holder.kill()
    opened(path).close()


def test_the_same_directory_twice_in_one_process_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(store.path)
    with pytest.raises(StoreError):
        opened(tmp_path / "alias")
    with pytest.raises(StoreError, match="already open in this process"):
        opened(Path(store.path), readonly=True)
    put(store, b"a", b"1")


def use_after_fork(store: Store, answers: "multiprocessing.Queue[str]") -> None:
    try:
        store.get("things", b"a")
    except StoreError as error:
        answers.put(str(error))
    else:
        answers.put("used")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_may_not_use_it(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=use_after_fork, args=(store, answers))
    child.start()
    assert "before a fork" in answers.get(timeout=100)
    child.join()
    put(store, b"a", b"1")


@pytest.mark.slow
def test_reading_only_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.mkdir()
    with pytest.raises(StoreUnwritable, match="no store"):
        opened(path, readonly=True)
    with opened(path) as store:
        put(store, b"a", b"1")
    before = (path / "data.mdb").read_bytes()
    with opened(path, readonly=True) as store:
        assert store.get("things", b"a") == b"1"
        with pytest.raises(StoreUnwritable, match="reading only"):
            put(store, b"b", b"2")
    assert (path / "data.mdb").read_bytes() == before


def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with opened(path) as store:
        write = Write()
        write.put("meta", b"format", (7).to_bytes(4, "little"))
        store.apply(write)
    before = (path / "data.mdb").read_bytes()
    with pytest.raises(NewerVersion, match="format 7"):
        opened(path)
    assert (path / "data.mdb").read_bytes() == before


# Files that are not what they were


def filled(path: Path) -> bytes:
    with opened(path, map_bytes=1 << 20) as store:
        for number in range(40):
            write = Write()
            write.append_many(BULK, 1, [b"%d" % number * 100] * 20)
            write.put("things", b"%d" % number, bytes(500))
            store.apply(write)
    return (path / "data.mdb").read_bytes()


def test_a_file_cut_short_is_refused_before_it_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "store"
    whole = filled(path)
    for size in (0, 1, 100, 4096, 5000, 8192, 40_960, 100_000):
        (path / "data.mdb").write_bytes(whole[:size])
        with pytest.raises(StoreCorrupt):
            opened(path)
    (path / "data.mdb").write_bytes(whole)
    opened(path).close()


def test_a_missing_file_is_not_taken_for_a_new_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    filled(path)
    (path / "data.mdb").unlink()
    with pytest.raises(StoreCorrupt, match="missing"):
        opened(path)


def test_no_header_no_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    whole = bytearray(filled(path))
    whole[16:20] = b"\0\0\0\0"
    (path / "data.mdb").write_bytes(whole)
    with pytest.raises(StoreCorrupt, match="header"):
        opened(path)


def test_the_file_format_of_another_lmdb_is_a_version_error(tmp_path: Path) -> None:
    path = tmp_path / "store"
    whole = bytearray(filled(path))
    whole[20] = 3
    (path / "data.mdb").write_bytes(whole)
    with pytest.raises(NewerVersion):
        opened(path)


def test_a_first_start_that_did_not_end_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    (path / "new").mkdir(parents=True)
    (path / "new" / "data.mdb").write_bytes(b"half a page")
    with opened(path) as store:
        put(store, b"a", b"1")
    assert not (path / "new").exists()


# A full store and a full disk


def fill(store: Store, body: bytes = bytes(2000)) -> StoreFull:
    for _ in range(100_000):
        write = Write()
        write.append_many(BULK, 1, [body] * 4)
        try:
            store.apply(write)
        except StoreFull as error:
            return error
    raise AssertionError("never full")


@pytest.mark.feature("S2")
def test_intake_stops_at_nine_tenths_and_trimming_makes_room(tmp_path: Path) -> None:
    with opened(tmp_path / "store", map_bytes=1 << 18, map_bytes_max=4 << 20) as store:
        error = fill(store)
        assert error.where == "store"
        assert error.limit_bytes == 4 << 20
        assert store.used_bytes <= (4 << 20) * 9 // 10
        tail = Journal(store).state(BULK).tail
        small = Write()
        small.put("things", b"mark", b"still possible", essential=True)
        store.apply(small)
        for up_to in range(50, tail + 50, 50):
            write = Write()
            write.mark(BULK, min(up_to, tail), tail)
            write.trim(BULK, up_to)
            store.apply(write)
        assert Journal(store).state(BULK).trimmed == tail
        assert store.used_bytes < 1 << 20
        fill(store)
        assert Journal(store).state(BULK).tail >= tail + tail // 2


def mounted_tmpfs(tmp_path: Path, mib: int) -> Path:
    place = tmp_path / "small"
    place.mkdir()
    size = f"size={mib * LARGE}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(place)], check=True)
    return place


@pytest.mark.mounts
def test_a_full_disk_refuses_intake_and_lets_trimming_go_on(tmp_path: Path) -> None:
    place = mounted_tmpfs(tmp_path, 4)
    try:
        with opened(place / "store", map_bytes=LARGE << 18, map_bytes_max=LARGE << 26) as store:
            error = fill(store)
            assert error.where == "disk"
            tail = Journal(store).state(BULK).tail
            assert tail > 100
            write = Write()
            write.mark(BULK, tail, tail)
            write.trim(BULK, tail - 5)
            store.apply(write)
            again = Write()
            again.append_many(BULK, 1, [bytes(2000)] * 50)
            assert store.apply(again)[BULK] == tail + 50
            assert len(Journal(store).read(BULK, tail - 4)) == 55
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill_up(path: Path) -> None:
    with open(path, "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(1 << 16))


@pytest.mark.mounts
def test_a_disk_that_others_fill_does_not_fail_a_commit_half_way(tmp_path: Path) -> None:
    place = mounted_tmpfs(tmp_path, 8)
    try:
        with opened(place / "store", map_bytes=LARGE << 21, map_bytes_max=LARGE << 22) as store:
            put(store, b"a", b"1")
            fill_up(place / "filler")
            for number in range(100):  # within what is reserved
                put(store, b"%d" % number, bytes(1000))
            error = fill(store)
            assert error.where == "disk"
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.mounts
def test_a_read_only_mount_is_named(tmp_path: Path) -> None:
    place = mounted_tmpfs(tmp_path, 8)
    try:
        opened(place / "store", map_bytes=1 << 20).close()
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        with pytest.raises(StoreUnwritable, match="Read-only file system"):
            opened(place / "store")
        with opened(place / "store", readonly=True) as store:
            assert store.count("things") == 0
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_map_that_cannot_be_had_is_refused_with_its_size(tmp_path: Path) -> None:
    with pytest.raises(StoreUnwritable, match=r"1152921504606846976 bytes .* limit of this store"):
        opened(tmp_path / "huge", map_bytes_max=1 << 60)
    program = (
        "import resource, sys\n"
        "from edgesync._native.store import Store\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        f"Store({str(tmp_path / 'limited')!r}, databases=('a',), map_bytes_max=4 << 30)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "StoreUnwritable" in done.stderr
    assert "a map of 4294967296 bytes (4.0 GiB) cannot be had" in done.stderr
    assert "ulimit -v" in done.stderr


@pytest.mark.slow
def test_a_store_of_a_32_bit_machine_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "s"
    opened(path).close()
    raw = (path / "data.mdb").read_bytes()
    # There the page's header has 12 bytes, so that the magic number comes four earlier.
    (path / "data.mdb").write_bytes(raw[:12] + raw[16:])
    with pytest.raises(StoreCorrupt, match="written by a 32-bit machine"):
        opened(path)


def test_intake_keeps_pages_free_for_what_must_go_on(tmp_path: Path) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    with opened(tmp_path / "small", map_bytes_max=256 * page) as store:
        assert store.map_bytes_max - store.intake_bytes_max == 64 * store.page_bytes
    with opened(tmp_path / "large", map_bytes_max=1 << 30) as store:
        assert store.map_bytes_max - store.intake_bytes_max == (1 << 30) // 10


def test_a_store_tells_what_its_widest_commit_may_have_copied(tmp_path: Path) -> None:
    with opened(tmp_path / "s", map_bytes_max=64 << 20) as store:
        write = Write()
        for number in range(1000):
            write.put("things", b"%d" % number, bytes(2000))
        store.apply(write)
        put(store, b"a", b"1")
        assert 1_000_000 < store.take_widest() <= 1000 * store.page_bytes
        assert store.take_widest() == 0


def test_a_store_opened_again_goes_on(store: Store) -> None:
    put(store, b"a", b"1")
    origin = Journal(store).origin
    store.reopen()
    assert store.get("things", b"a") == b"1"
    assert Journal(store).origin != origin
    assert os.path.exists(store.path)


@pytest.mark.parametrize("commits", [1, 2, 3, 4])
def test_the_newer_of_two_headers_says_how_long_the_file_must_be(
    tmp_path: Path, commits: int
) -> None:
    """A file that the older would accept and the newer would not ends the process when mapped."""
    path = tmp_path / "s"
    with opened(path) as store:
        for number in range(commits):
            put(store, b"%d" % number, bytes(100_000))
    data = path / "data.mdb"
    with data.open("r+b") as file:
        raw = file.read(1 << 17)
        page = META.unpack_from(raw, META_AT)[3]  # of the file, at most 32 KiB, not the kernel's
        lasts = sorted(META.unpack_from(raw, at * page + META_AT)[4] for at in (0, 1))
        assert lasts[0] < lasts[1]
        file.truncate(lasts[1] * page)  # the newest page is missing
    with pytest.raises(StoreCorrupt, match="cut short"):
        opened(path)
    with data.open("r+b") as file:
        file.truncate((lasts[1] + 1) * page)
    with opened(path) as store:
        assert store.count("things") == commits


# A node of LMDB, before its key: size of the value (two halves), flags, size of the key. Behind
# the key of a large value: the number of its first page, whose header counts its pages at 12.
NODE = struct.Struct("<HHHH")
IN_PAGES_OF_ITS_OWN = 1
PAGES_AT = 12


def rot_flags(raw: bytearray, node: int, page_bytes: int) -> None:
    low, high, flags, key_bytes = NODE.unpack_from(raw, node)
    NODE.pack_into(raw, node, low, high, flags ^ IN_PAGES_OF_ITS_OWN, key_bytes)


def rot_size(raw: bytearray, node: int, page_bytes: int) -> None:
    low, high, flags, key_bytes = NODE.unpack_from(raw, node)
    NODE.pack_into(raw, node, low, high ^ 0x8000, flags, key_bytes)


def rot_page_number(raw: bytearray, node: int, page_bytes: int) -> None:
    struct.pack_into("<Q", raw, node + NODE.size + 5, 2)


def rot_page_count(raw: bytearray, node: int, page_bytes: int) -> None:
    (first,) = struct.unpack_from("<Q", raw, node + NODE.size + 5)
    struct.pack_into("<I", raw, first * page_bytes + PAGES_AT, 1 << 30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "rot"),
    [
        (b"small", rot_flags),
        (b"large", rot_flags),
        (b"large", rot_size),
        (b"large", rot_page_number),
        (b"large", rot_page_count),
    ],
)
@pytest.mark.skipif(versions()["lmdb_from"] == "the system", reason="LMDB without the patches")
def test_a_value_whose_pages_are_not_where_it_says_is_an_error(
    tmp_path: Path, key: bytes, rot: Callable[[bytearray, int, int], None]
) -> None:
    """Plain LMDB returns what lies there, and behind the end of the file the process ends."""
    path = tmp_path / "s"
    with opened(path) as store:
        page_bytes = store.page_bytes
        write = Write()
        write.put("things", b"small", bytes(40))
        write.put("things", b"large", bytes(100_000))
        store.apply(write)
    raw = bytearray((path / "data.mdb").read_bytes())
    at = raw.index(key)
    assert raw.count(key) == 1
    rot(raw, at - NODE.size, page_bytes)
    (path / "data.mdb").write_bytes(raw)
    with opened(path) as store, pytest.raises(StoreCorrupt, match="damaged"):
        store.get("things", key)


def test_a_copy_that_ends_with_its_last_page_is_given_room_when_it_is_opened(
    tmp_path: Path,
) -> None:
    """A rotten offset in that page leads up to 64 KiB further: behind the end of the file."""
    with opened(tmp_path / "s") as store:
        put(store, b"key", bytes(1000))
        store.copy(str(tmp_path / "copy"))
    data = tmp_path / "copy" / "data.mdb"
    before = data.stat().st_size
    with opened(tmp_path / "copy") as store:
        assert store.get("things", b"key") == bytes(1000)
        assert data.stat().st_size >= before + (1 << 17)


def test_what_a_commit_needs_next_has_been_written_before(tmp_path: Path) -> None:
    """Space that is only reserved costs a commit the wait for the file system's own journal."""
    ends = []
    with opened(tmp_path / "s") as store:
        data = os.open(tmp_path / "s" / "data.mdb", os.O_RDONLY)
        try:
            for number in range(200):
                put(store, b"%d" % number, bytes(1000))
                ends.append(os.lseek(data, 0, os.SEEK_HOLE))
                assert ends[-1] > store.used_bytes
        finally:
            os.close(data)
        assert ends[-1] < store.used_bytes + (1 << 20) < store.map_bytes
    assert len(set(ends)) < 10  # not with each commit


def test_sizes_are_of_the_values_in_order(store: Store) -> None:
    for key, nbytes in ((b"b", 3), (b"a", 9000), (b"c", 1)):
        put(store, key, bytes(nbytes))
    assert store.sizes("things") == [(b"a", 9000), (b"b", 3), (b"c", 1)]
    assert store.sizes("things", b"b", b"c") == [(b"b", 3)]
    assert store.sizes("things", limit=2) == [(b"a", 9000), (b"b", 3)]
    assert store.sizes("things", limit_bytes=1) == [(b"a", 9000)]


DAMAGES = {
    "no kind": (10, b"\0\0"),
    "a branch": (10, b"\1\0"),
    "both kinds": (10, b"\3\0"),
    "a large value": (10, b"\4\0"),
    "empty": (12, b"\x10\0"),
    "one node": (12, b"\x12\0"),
    "a node behind the page": (18, b"\xfe\xff"),
    "a node in the head": (18, b"\x10\0"),
    "an odd node": (18, b"\x01\x0f"),
    "a long key": (-2, b"\xff\xff"),
    "long data": (-8, b"\xff\xff\xff\xff"),
    "data elsewhere": (-4, b"\1\0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_page_that_is_not_what_it_says_is_an_error(tmp_path: Path, damage: str) -> None:
    """What a file says may be anything: it costs an error, not the process (F10).

    Offsets are those of a page's head; negative ones are of a node's head, from its end on.
    """
    path = tmp_path / "store"
    keys = [b"key-%06d" % n for n in range(400)]
    with opened(path, sync="none", map_bytes=1 << 20) as store:
        for n, key in enumerate(keys):
            put(store, key, b"v" * (150 if n % 40 else 6000))
        size = store.page_bytes
    data = path / "data.mdb"
    whole = data.read_bytes()
    refused = 0
    for page in range(2, len(whole) // size):
        head = page * size
        kind, lower = struct.unpack_from("<HH", whole, head + 10)
        if kind not in (1, 2) or not 20 <= lower <= size:
            continue
        at, what = DAMAGES[damage]
        if at < 0:
            # The first node's own head: 8 bytes, the last two of them the size of its key.
            at += struct.unpack_from("<H", whole, head + 16)[0] + 8
        damaged = bytearray(whole)
        damaged[head + at : head + at + len(what)] = what
        data.write_bytes(damaged)
        try:
            with opened(path, sync="none", map_bytes=1 << 20) as store:
                for use in (scan_all, scan_back, get_all, rewrite):
                    try:
                        use(store, keys)
                    except StoreError:
                        refused += 1
        except StoreError:
            refused += 1
    assert refused


def scan_all(store: Store, _keys: list[bytes]) -> None:
    store.scan("things", b"", b"\xff", limit=1000)


def scan_back(store: Store, _keys: list[bytes]) -> None:
    store.scan("things", b"", b"\xff", limit=1000, reverse=True)


def get_all(store: Store, keys: list[bytes]) -> None:
    for key in keys[::7]:
        store.get("things", key)


def rewrite(store: Store, keys: list[bytes]) -> None:
    for key in keys[::13]:
        write = Write()
        write.delete("things", key)
        write.put("things", key + b"+", b"w" * 300)
        store.apply(write)
