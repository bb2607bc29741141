"""Locks, limiters and queues of common libraries, against a real edge (`make compat`)."""
