"""Tunnels at the hub: opened for an operator, on record, and ended in time."""
