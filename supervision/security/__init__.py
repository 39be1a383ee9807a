"""The identity of nodes: certificates, the authority that issues them, and their revocation."""
