"""The policies that the requests to each model pass here: a stack for each, as its card says."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Final

from actors.contracts import ModelCard
from actors.contracts.operating import PolicyState
from actors.contracts.policies import (
    BulkheadTerms,
    DeadlineTerms,
    PolicyTerms,
    RateTerms,
    RequestPolicies,
    RetryTerms,
)
from supervision.policies import (
    Budget,
    BudgetOptions,
    Bulkhead,
    BulkheadOptions,
    Deadline,
    DeadlineOptions,
    Policy,
    Rate,
    RateOptions,
    Retry,
    RetryOptions,
    Stack,
    Timeout,
    TimeoutOptions,
)

MOST: Final = 8192  # stacks at once; the registry has room for fewer versions


def retry_options(terms: RetryTerms) -> RetryOptions:
    """Each attempt goes to another worker, so it needn't wait for the one that refused; and what
    a lost worker leaves behind is resumed at once, whatever else is retried."""
    return RetryOptions(
        attempts=terms.attempts,
        refusals=terms.refusals,
        initial_s=terms.pause_s,
        max_s=terms.max_pause_s,
        heeds=False,
        charges_refusals=False,
        forgives_loss=True,
    )


def budget_of(terms: RetryTerms) -> Budget:
    """An own one."""
    return Budget(BudgetOptions(ratio=terms.budget_ratio, floor=terms.budget_floor))


class ModelStack:
    """What the requests to one version pass. `stack` is for new ones, `counting` for those that
    another gateway had let in, which are never refused."""

    __slots__ = ("budget", "counting", "policies", "policy", "ref", "stack")

    def __init__(
        self, card: ModelCard, policies: RequestPolicies, shared: Budget, now: float
    ) -> None:
        self.ref = card.ref
        self.policy = card.policy
        self.policies = policies
        self.budget = shared if card.policy.retry is None else budget_of(policies.retry)
        self.stack = Stack(*(self._made(terms, now) for _, terms in policies.terms()))
        self.counting = self.stack.counting()

    def _made(self, terms: PolicyTerms, now: float) -> Policy:
        if isinstance(terms, RateTerms):
            return Rate(RateOptions(per_s=terms.per_s, burst=terms.burst), now)
        if isinstance(terms, DeadlineTerms):
            return Deadline(DeadlineOptions(total_s=terms.total_s))
        if isinstance(terms, RetryTerms):
            return Retry(retry_options(terms), random.random, self.budget)
        if isinstance(terms, BulkheadTerms):
            return Bulkhead(BulkheadOptions(at_once=terms.at_once))
        return Timeout(TimeoutOptions(attempt_s=terms.attempt_s))

    def states(self, now: float) -> Iterator[PolicyState]:
        """Its policies in their order, as operators see them."""
        for (name, terms), policy in zip(self.policies.terms(), self.stack.policies, strict=True):
            yield PolicyState(
                model_ref=self.ref,
                name=name,
                options=tuple((key, float(getattr(terms, key))) for key in terms.__struct_fields__),
                own=getattr(self.policy, name) is not None,
                state=self._state(policy, now),
            )

    def _state(self, policy: Policy, now: float) -> str:
        match policy:
            case Rate():
                return f"{max(0.0, policy.bucket.level(now)):.0f} left"
            case Bulkhead():
                return f"{policy.inside} inside"
            case Retry():
                budget = self.budget
                budget.turn(now)
                return f"{budget.spent} of {budget.most:.0f} retries spent"
            case _:
                return ""


class ModelPolicies:
    """Stacks by version, made when one is first asked for, and anew when its policy was changed;
    requests that run keep those they began with. `of_all` says what a policy doesn't; the budget
    of retries is one for all whose policy has no retry of its own."""

    def __init__(self, of_all: RequestPolicies) -> None:
        self._of_all = of_all
        self._shared = budget_of(of_all.retry)
        self._stacks: dict[str, ModelStack] = {}
        self._refused = 0  # by budgets that are gone

    def __len__(self) -> int:
        return len(self._stacks)

    def of(self, card: ModelCard, now: float) -> ModelStack:
        """The stack of this version."""
        found = self._stacks.get(card.ref)
        if found is not None and (found.policy is card.policy or found.policy == card.policy):
            return found
        if found is not None:
            self._forget(found)
        elif len(self._stacks) >= MOST:
            self._forget(next(iter(self._stacks.values())))
        made = ModelStack(card, card.policy.policies(self._of_all), self._shared, now)
        self._stacks[made.ref] = made
        return made

    def _forget(self, stack: ModelStack) -> None:
        if stack.budget is not self._shared:
            self._refused += stack.budget.refused
        del self._stacks[stack.ref]

    def states(self, cards: Iterable[ModelCard], now: float) -> Iterator[PolicyState]:
        """Of these versions, in their order."""
        for card in cards:
            yield from self.of(card, now).states(now)

    def retries(self) -> tuple[int, int]:
        """(retries that the budgets have lately granted, those that they ever refused)."""
        own = [s.budget for s in self._stacks.values() if s.budget is not self._shared]
        return (
            self._shared.spent + sum(budget.spent for budget in own),
            self._refused + self._shared.refused + sum(budget.refused for budget in own),
        )
