"""Rule chains that the hub keeps for its edges, and which edge is to run which."""
