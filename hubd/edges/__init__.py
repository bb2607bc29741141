"""Which edges there are, and how a new one gets in."""
