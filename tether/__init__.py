"""The ways to use Tether: HTTP, commands, the shell, a node from its configuration to its end."""
