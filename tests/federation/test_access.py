"""Who may do what, against an obvious table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nissl.federation.access import Action, Grant, decide

NAMES = st.sampled_from(["brain", "brain/x", "brain/x/y", "brainx", "brai", "other", "other/brain"])
GRANTS = st.builds(
    Grant,
    st.just("ana"),
    st.frozensets(st.sampled_from(Action)),
    st.lists(NAMES, max_size=3).map(tuple),
)


def covered(names: tuple[str, ...], dataset: str) -> bool:
    """The slow way: one of the names is the dataset or a folder above it."""
    parts = dataset.split("/")
    above = {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return not names or bool(above & set(names))


@given(action=st.sampled_from(Action), dataset=NAMES, grant=st.none() | GRANTS, public=st.booleans())
def test_the_decision_follows_the_table(action: Action, dataset: str, grant: Grant | None, public: bool) -> None:
    granted = grant is not None and action in grant.actions and covered(grant.datasets, dataset)
    decision = decide(action, dataset, grant, public=public)
    assert decision.allowed == (granted or (public and action is Action.READ))
    assert decision.why


@pytest.mark.parametrize(
    ("dataset", "allowed"),
    [("brain", True), ("brain/x", True), ("brain/x/y", True), ("brainx", False), ("bra", False), ("x/brain", False)],
)
def test_a_grant_for_a_dataset_covers_what_is_below_it_and_nothing_else(dataset: str, allowed: bool) -> None:
    grant = Grant("ana", frozenset({Action.READ}), ("brain",))
    assert decide(Action.READ, dataset, grant, public=False).allowed == allowed


def test_a_refusal_says_why() -> None:
    reader = Grant("ana", frozenset({Action.READ}), ("brain",))
    assert decide(Action.READ, "brain", None, public=False).why == "a token is needed to read brain"
    assert decide(Action.WRITE, "brain", None, public=True).why == "a token is needed to write brain"
    assert decide(Action.WRITE, "brain", reader, public=True).why == "the token of ana does not allow to write"
    assert decide(Action.READ, "other", reader, public=False).why == "the token of ana does not cover other"
