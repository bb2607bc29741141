"""The parts of a node; table.py lists them."""
