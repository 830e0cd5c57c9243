"""Brains and stacks that the tests of datasets share."""

from __future__ import annotations

from tests.builders import empty_brain, full_brain, own_git_identity, stack

__all__ = ["empty_brain", "full_brain", "own_git_identity", "stack"]
