"""Reservation: job, lease, usage and ledger, once each. Who only settles loads no database."""
