"""The door for Redis clients."""
