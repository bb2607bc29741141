"""Typed doors to the compiled store: everything one process keeps durably."""
