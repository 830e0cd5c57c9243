from __future__ import annotations

import pytest

from nissl.hub.site import trust_command


@pytest.mark.parametrize(
    ("host", "addresses"),
    [("localhost", "127.0.0.1 ::1"), ("127.0.0.1", "127.0.0.1"), ("10.0.0.7", "10.0.0.7"), ("::1", "::1")],
)
def test_clients_of_a_private_address_are_told_what_git_annex_needs(host: str, addresses: str) -> None:
    assert trust_command(host) == f"git config --global annex.security.allowed-ip-addresses '{addresses}'"


@pytest.mark.parametrize("host", ["hub.example.org", "8.8.8.8", "", "2606:4700::1111"])
def test_clients_of_other_addresses_are_told_nothing(host: str) -> None:
    assert trust_command(host) is None
