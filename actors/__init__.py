"""The inference network: contracts, one folder an actor with its own decisions, and what they are
made of."""
