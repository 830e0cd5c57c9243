"""Who may do what: a pure decision that can be explained.

Default deny. On a public hub everybody may read; everything else needs a grant that covers the dataset and the action.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True)
class Grant:
    """What the bearer of a token may do."""

    subject: str
    """Whom the token was issued to, for the log."""
    actions: frozenset[Action]
    datasets: tuple[str, ...] = ()
    """Datasets by name, each with everything below it; none named means all."""

    def covers(self, dataset: str) -> bool:
        return not self.datasets or any(dataset == name or dataset.startswith(f"{name}/") for name in self.datasets)


@dataclass(frozen=True)
class Decision:
    allowed: bool
    why: str
    """One sentence, for the log and for who was refused."""


def decide(action: Action, dataset: str, grant: Grant | None, *, public: bool) -> Decision:
    """Whether `grant` (None: nobody in particular) allows `action` on `dataset`."""
    if action is Action.READ and public:
        return Decision(True, "this hub is public: everybody may read")
    if grant is None:
        return Decision(False, f"a token is needed to {action} {dataset}")
    if action not in grant.actions:
        return Decision(False, f"the token of {grant.subject} does not allow to {action}")
    if not grant.covers(dataset):
        return Decision(False, f"the token of {grant.subject} does not cover {dataset}")
    return Decision(True, f"the token of {grant.subject} allows to {action}")
