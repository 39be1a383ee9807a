"""Reservation: job, lease, usage and ledger, once each."""

from actors.reservation.reservation import Reservation, ReservationOptions

__all__ = ["Reservation", "ReservationOptions"]
