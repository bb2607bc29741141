"""`python -m hubd`."""

from hubd.cli import main

main()
