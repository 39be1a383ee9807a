"""The actors of Tether, and the runtime that they stand on."""
