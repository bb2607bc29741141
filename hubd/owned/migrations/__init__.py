"""Alembic's folder, shipped with the package: numbered, forward only, never edited later."""
