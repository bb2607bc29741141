"""Alembic's folder, shipped with the package: a hub brings its own database up to date."""
