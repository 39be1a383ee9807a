"""A node on this machine: its directory, its processes, its tree, its start and its end."""
