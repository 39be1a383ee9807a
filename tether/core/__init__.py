"""Pure decisions of the request path: no sockets, no clock, no Thespian."""
