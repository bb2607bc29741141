"""Modbus over TCP: profiles describe devices, a planner merges their reads, a line polls them."""
