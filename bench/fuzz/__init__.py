"""What comes in from elsewhere, and can be anything: read by our readers, mutated for minutes."""
