"""The compiled hot path; its sources are in native/, its typed face is in the stubs here."""

import sys

if sys.maxsize < 2**32:
    raise SystemExit(
        "edgesync needs a 64-bit system, and this Python is a 32-bit one: "
        "install a 64-bit operating system"
    )
