"""The node types, by what they are for; `edgesync/rules/catalog.py` lists them."""
