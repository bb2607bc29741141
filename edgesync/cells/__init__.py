"""The local-first store: keys every edge writes to as if there were no cloud."""
