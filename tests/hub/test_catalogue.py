from __future__ import annotations

from nissl.federation.card import verify_card
from tests.hub.conftest import IMAGE, SECTION, RunningHub


def test_programs_get_the_datasets_with_their_images(public_hub: RunningHub) -> None:
    listed = {entry["name"]: entry for entry in public_hub.get("/api/datasets").json["datasets"]}
    assert list(listed) == ["brain", SECTION]
    (row,) = listed["brain"]["images"]
    assert row["image"] == str(IMAGE.image)
    assert row["shape"] == "3x600x700"
    assert listed["brain"]["clone"] == f"{public_hub.url}/git/brain"
    assert len(listed[SECTION]["branches"]["main"]) == 40


def test_people_get_a_page_that_leads_to_the_viewer(public_hub: RunningHub) -> None:
    page = public_hub.get("/").text
    link = f"{public_hub.url}/view/brain/main/sourcedata/sample-0042/{IMAGE.image}"
    assert f'href="{link}"' in page
    assert f"datalad clone {public_hub.url}/git/brain" in page
    assert public_hub.get(link.removeprefix(public_hub.url)).status == 302


def test_the_node_card_is_signed_by_the_hub_s_own_key(public_hub: RunningHub) -> None:
    card = verify_card(public_hub.get("/.well-known/nissl").json)
    assert (card.name, card.key) == ("Madrid", public_hub.root.key.public)


def test_operators_get_a_health_check_without_a_token(private_hub: RunningHub) -> None:
    assert private_hub.get("/healthz").json == {"status": "ok"}
