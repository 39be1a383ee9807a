"""Policies of calls: retry, breaker and their kind, state machines in an explicit order. Pure but
for the drivers, which are imported by their own names."""

from supervision.policies.breaker import Breaker, BreakerOptions, Mode, State
from supervision.policies.breakers import Breakers
from supervision.policies.budget import Budget, BudgetOptions
from supervision.policies.bulkhead import Bulkhead, BulkheadOptions
from supervision.policies.deadline import Deadline, DeadlineOptions
from supervision.policies.outcome import CANCELLED, COMPLETED, AttemptOutcome, Ended, outcome_of
from supervision.policies.policy import NEVER, Again, Done, GiveUp, Go, Guard, Policy, Refuse
from supervision.policies.rate import Rate, RateOptions
from supervision.policies.retry import Retry, RetryOptions
from supervision.policies.stack import Call, Stack
from supervision.policies.timeout import Timeout, TimeoutOptions
from supervision.policies.token_bucket import TokenBucket

__all__ = [
    "CANCELLED",
    "COMPLETED",
    "NEVER",
    "Again",
    "AttemptOutcome",
    "Breaker",
    "BreakerOptions",
    "Breakers",
    "Budget",
    "BudgetOptions",
    "Bulkhead",
    "BulkheadOptions",
    "Call",
    "Deadline",
    "DeadlineOptions",
    "Done",
    "Ended",
    "GiveUp",
    "Go",
    "Guard",
    "Mode",
    "Policy",
    "Rate",
    "RateOptions",
    "Refuse",
    "Retry",
    "RetryOptions",
    "Stack",
    "State",
    "Timeout",
    "TimeoutOptions",
    "TokenBucket",
    "outcome_of",
]
