"""The numbered migrations: SQL files, applied in order, never changed once released."""
