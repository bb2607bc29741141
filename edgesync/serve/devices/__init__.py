"""Doors for devices, whatever protocol they speak: who may come in, and what messages mean."""
