"""A systemd unit for a daemon and the settings in use: what `service` of both programs prints.

One template for both daemons. The unit runs as a user of its own, may write its data folder and
nothing else, and gives a program up that does not turn its loop any more (watchdog).
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import msgspec

SYSTEM_UNITS: Final = Path("/etc/systemd/system")
# Descriptors: one a connection, see docs/operations.md.
FILES_MAX: Final = 65536

UNIT: Final = """\
# Written by `{program} service`; changes belong into a drop-in: systemctl edit {program}
[Unit]
Description={what}
Wants=network-online.target
After=network-online.target time-sync.target

[Service]
Type=notify
User={user}
Group={group}
WorkingDirectory={folder}
ExecStart={command} --config {config} run
{reload}Restart=always
RestartSec=2s
# A disk that does not answer, or a loop that does not turn: start again.
WatchdogSec=60s
TimeoutStopSec=30s
LimitNOFILE={files}
{limits}
# What the daemon may touch.
ReadWritePaths={data}
ProtectSystem=strict
ProtectHome={protect_home}
PrivateTmp=yes
{devices}NoNewPrivileges=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
UMask=0077

[Install]
WantedBy=multi-user.target
"""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What the unit of one daemon is made of.

    program  the command, and the unit's name
    what     its description
    config   the settings; absolute
    data     the only folder it may write
    reload   whether it reads its settings anew on SIGHUP
    serial   whether it may open serial lines and other devices
    """

    program: str
    what: str
    config: Path
    data: Path
    reload: bool = False
    serial: bool = False


def unit_text(service: Service, *, user: str) -> str:
    """Return the unit file; `user` is who the daemon runs as."""
    beside = Path(sys.executable).with_name(service.program)
    command = str(beside) if beside.exists() else shutil.which(service.program) or str(beside)
    is_at_home = any(
        path.is_relative_to(home)
        for path in (service.config, service.data, Path(command), Path(sys.prefix))
        for home in (Path("/home"), Path("/root"))
    )
    return UNIT.format(
        program=service.program,
        what=service.what,
        user=user,
        group=user,
        folder=service.config.parent,
        command=command,
        config=service.config,
        data=service.data,
        files=FILES_MAX,
        reload="ExecReload=/bin/kill -HUP $MAINPID\n" if service.reload else "",
        # A gateway's other programs come first when memory gets short, and its disk is shared.
        limits="OOMScoreAdjust=-100\nIOSchedulingPriority=2",
        protect_home="read-only" if is_at_home else "yes",
        devices="" if service.serial else "PrivateDevices=yes\n",
    )


def install(service: Service, *, user: str, units: Path = SYSTEM_UNITS) -> Path:
    """Make the user and the data folder, write the unit, enable and start it; returns its path."""
    if os.geteuid() != 0:
        raise click.ClickException(
            f"installing a service takes root: sudo {service.program} service install, or "
            f"`{service.program} service print` and put it where your system wants it"
        )
    if shutil.which("systemctl") is None:
        raise click.ClickException(
            f"no systemd here; `{service.program} service print` shows what to do by other means"
        )
    _make_user(user)
    account = pwd.getpwnam(user)
    for folder in (service.config.parent, service.data):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _give(service.data, account)
    for path in service.config.parent.iterdir():
        if path.is_file() and path.suffix in (".toml", ".keys"):
            os.chown(path, account.pw_uid, account.pw_gid)
    unit = units / f"{service.program}.service"
    unit.write_text(unit_text(service, user=user))
    for words in (["daemon-reload"], ["enable", "--now", unit.name]):
        subprocess.run(["systemctl", *words], check=True)
    return unit


def _make_user(user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        words = [
            "useradd",
            "--system",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/usr/sbin/nologin",
        ]
        subprocess.run([*words, user], check=True)


def _give(folder: Path, account: pwd.struct_passwd) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def make_group(service_of: Callable[[Path], Service], program: str) -> click.Group:
    """Return the command group `service` of a program."""

    @click.group(
        "service",
        help="Run as a systemd service: print its unit, or install it.",
        epilog=f"Example: sudo {program} --config /etc/edgesync/… service install",
    )
    def group() -> None:
        pass

    user_option = click.option(
        "--user", default="edgesync", show_default=True, help="Who the daemon runs as."
    )

    @group.command("print", epilog=f"Example: {program} service print | less")
    @user_option
    @click.pass_obj
    def print_unit(config: Path, user: str) -> None:
        """Print the unit file."""
        click.echo(unit_text(service_of(config.absolute()), user=user), nl=False)

    @group.command("install", epilog=f"Example: sudo {program} service install")
    @user_option
    @click.pass_obj
    def install_unit(config: Path, user: str) -> None:
        """Make the user, give it the data folder, write the unit, enable and start it."""
        unit = install(service_of(config.absolute()), user=user)
        click.echo(f"wrote {unit}; it runs, and starts with the machine")
        click.echo(f"next: systemctl status {program}, journalctl -u {program} -f")

    return group
