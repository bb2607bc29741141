"""edgesync: a local-first edge runtime that never loses, doubles or reorders what it acknowledged."""
