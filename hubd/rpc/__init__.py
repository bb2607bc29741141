"""Calls of devices, at the hub: owned state, sent by the downlink, moved on by edges' events."""
