"""The demonstration: a site, a hub, faults on purpose, and a ledger that compares every row."""
