"""An actor system: a runtime on Thespian, Erlang/OTP's supervision, policies, identity, logs. It
knows nothing of inference."""
