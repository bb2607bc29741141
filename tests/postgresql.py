"""A PostgreSQL server of the tests' own, from Debian's package, on a socket in its folder."""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import psycopg

PROGRAMS: Final = Path("/usr/lib/postgresql/15/bin")
USER: Final = "hub"
# Whom the server lets in with a password only; all others it trusts.
LOCKED: Final = "locked"
PASSWORD: Final = "a secret"
QUICK: Final = ("fsync=off", "full_page_writes=off")
SETTINGS: Final = (
    "listen_addresses=", "autovacuum=off", "max_wal_size=256MB", "shared_buffers=32MB",
    "max_connections=60", "log_min_messages=fatal", "logging_collector=off",
)  # fmt: skip

EMPTY: Final = """
DO $$ DECLARE name text; BEGIN
PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
FOR name IN SELECT nspname FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname NOT IN ('public', 'information_schema') LOOP
EXECUTE format('DROP SCHEMA %I CASCADE', name);
END LOOP; END $$
"""
ROLE: Final = f"""
DO $$ BEGIN
IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{LOCKED}') AND NOT pg_is_in_recovery() THEN
CREATE ROLE {LOCKED} SUPERUSER LOGIN PASSWORD '{PASSWORD}';
END IF; END $$
"""


class Server:
    """One cluster; `start` and `kill` it as often as you like.

    is_durable   it syncs what is committed, for tests that kill it
    """

    def __init__(self, *, is_durable: bool = False) -> None:
        # The path of a socket has 107 bytes, and a server refuses to be root's.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._data, self._standby = self.folder / "data", self.folder / "standby"
        self._settings = SETTINGS if is_durable else (*SETTINGS, *QUICK)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
            self._as_user = ["setpriv", *ids, "--clear-groups", "--"]
        how = ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", *how, "-D", str(self._data))
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"local all {LOCKED} scram-sha-256\n{rules.read_text()}")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(PROGRAMS / program), *arguments]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def start(self, *settings: str) -> None:
        """Return once the server answers; `settings` are NAME=VALUE."""
        options = [f"-c{one}" for one in (*self._settings, *settings)]
        self._process = subprocess.Popen(
            [*self._as_user, str(PROGRAMS / "postgres"), "-D", str(self._data), "-k",
             str(self.folder), *options],
            cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while True:
            try:
                with psycopg.connect(self.url("postgres")) as connection:
                    connection.execute(ROLE)
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, "the server did not start"
                time.sleep(0.01)

    def kill(self) -> None:
        """End the server and all it has started at once, as a power cut would."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children)
        self._process.wait()
        self._process = None

    def back_up(self) -> None:
        """Copy the server as it is now, for `fail_over`."""
        where = ["-h", str(self.folder), "-U", USER, "-D", str(self._standby)]
        self._run("pg_basebackup", *where, "--checkpoint=fast", "--no-sync")

    def fail_over(self) -> None:
        """Have the copy in the place of the server, read-only until it is promoted."""
        self.kill()
        shutil.rmtree(self._data)
        self._standby.replace(self._data)
        (self._data / "standby.signal").touch()
        self.start()

    def promote(self) -> None:
        assert self.execute("SELECT pg_promote()") == [(True,)]

    @contextlib.contextmanager
    def silent(self, pid: int) -> Iterator[None]:
        """Have the process of one connection stand still for a while."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def tablespace(self, name: str, size: str) -> Iterator[None]:
        """Have a tablespace on a disk of its own, of so many bytes, for a while (as root)."""
        folder = self.folder / name
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", name, folder], check=True)
        try:
            owner = self.folder.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)
            self.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
            yield
            self.execute("CHECKPOINT")
            self.execute(f"DROP TABLESPACE {name}")
        finally:
            # A process of the server may have a file open a moment longer.
            subprocess.run(["umount", "--lazy", folder], check=True)

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """Make an empty database; returns its URL."""
        name = f"hub{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database for a while; yields its URL."""
        name = "hub"
        if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.execute(EMPTY, name)  # ten times as fast as a new database
