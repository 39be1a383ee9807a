"""Values and decisions of inference that several actors share. Pure."""
