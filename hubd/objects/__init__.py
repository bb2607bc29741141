"""Large objects that the hub keeps for its edges, and which edge is to hold which."""
