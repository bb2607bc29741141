"""Large objects: bytes with a name, kept at the hub, held by edges, and moved beside the lanes."""
