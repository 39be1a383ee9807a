"""Erlang/OTP's supervision semantics: a pure tree, and the actors that carry it out."""
