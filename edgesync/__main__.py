"""`python -m edgesync`."""

from edgesync.cli import main

main()
