"""Model weights that are content-addressed, signed, replicated and verified before they load."""
