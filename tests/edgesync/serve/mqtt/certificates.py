"""Certificates of devices, made by openssl."""

import subprocess
from pathlib import Path

import msgspec

CURVE = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


class Made(msgspec.Struct, frozen=True):
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    @property
    def pem(self) -> str:
        return self.certificate.read_text()

    @property
    def entry(self) -> str:
        """Return the line of a file of devices."""
        return f'certificate = """\n{self.pem}"""\n'


def openssl(*arguments: object) -> str:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return done.stdout


def make_self_signed(folder: Path, name: str, *, days: int = 2) -> Made:
    made = Made(folder / f"{name}.crt", folder / f"{name}.key")
    request = folder / f"{name}.csr"
    openssl("req", "-new", "-newkey", *CURVE, "-nodes", "-subj", f"/CN={name}",
            "-keyout", made.key, "-out", request)  # fmt: skip
    openssl("x509", "-req", "-in", request, "-signkey", made.key, "-days", days,
            "-out", made.certificate)  # fmt: skip
    return made


def make_ca(folder: Path, name: str = "ca") -> Made:
    made = Made(folder / f"{name}.crt", folder / f"{name}.key")
    openssl("req", "-x509", "-newkey", *CURVE, "-nodes", "-days", 2, "-subj", f"/CN={name}",
            "-keyout", made.key, "-out", made.certificate)  # fmt: skip
    return made


def make_signed(folder: Path, name: str, ca: Made, *, days: int = 2) -> Made:
    made = Made(folder / f"{name}.crt", folder / f"{name}.key")
    request = folder / f"{name}.csr"
    openssl("req", "-new", "-newkey", *CURVE, "-nodes", "-subj", f"/CN={name}",
            "-keyout", made.key, "-out", request)  # fmt: skip
    openssl("x509", "-req", "-in", request, "-CA", ca.certificate, "-CAkey", ca.key,
            "-CAcreateserial", "-days", days, "-out", made.certificate)  # fmt: skip
    return made


def fingerprint_of(made: Made) -> str:
    printed = openssl("x509", "-noout", "-fingerprint", "-sha256", "-in", made.certificate)
    return printed.strip().partition("=")[2]
