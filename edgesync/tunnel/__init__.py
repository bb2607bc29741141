"""Tunnels at an edge: where the hub may connect to, and the connections themselves."""
