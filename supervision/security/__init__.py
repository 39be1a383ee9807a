"""Who a node is: certificates, the authority that issues them, and their revocation."""
