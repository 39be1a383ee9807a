"""What several actors share. Pure."""
