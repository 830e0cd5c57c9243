from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nissl.federation.keys import KeyFileError
from nissl.hub.root import DatasetNameError, HubError, check_dataset_name, create_hub, open_hub


def test_a_new_hub_has_a_key_that_only_its_user_can_read(tmp_path: Path) -> None:
    hub = create_hub(tmp_path / "hub", "Madrid")
    assert stat.S_IMODE((tmp_path / "hub" / "node.key").stat().st_mode) == 0o600
    assert open_hub(tmp_path / "hub").key.public == hub.key.public


def test_a_hub_is_not_made_where_something_is(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear Cajal")
    with pytest.raises(HubError, match="not empty"):
        create_hub(tmp_path, "Madrid")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_folder_that_is_no_hub_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="nissl hub init"):
        open_hub(tmp_path)


def test_a_hub_whose_key_is_gone_does_not_open(tmp_path: Path) -> None:
    create_hub(tmp_path / "hub", "Madrid")
    (tmp_path / "hub" / "node.key").unlink()
    with pytest.raises(KeyFileError, match=r"node\.key is missing"):
        open_hub(tmp_path / "hub")


def test_datasets_are_listed_each_before_those_below_it(tmp_path: Path) -> None:
    hub = create_hub(tmp_path / "hub", "Madrid")
    for name in ("brain", "brain/sourcedata/sample-2", "brain/sourcedata/sample-1", "lonely", "group/inner"):
        repository = hub.repository(name)
        repository.mkdir(parents=True)
        (repository / "HEAD").write_text("ref: refs/heads/main\n")
    listed = ["brain", "brain/sourcedata/sample-1", "brain/sourcedata/sample-2", "group/inner", "lonely"]
    assert sorted(hub.datasets()) == listed
    assert all(hub.has(name) for name in listed)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/../b", "/a", "a/", "a//b", ".hidden", "a\0b", "a b", "a.git", "a.git/b", "ä", "a\n"]
)
def test_names_that_could_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetNameError):
        check_dataset_name(name)
    assert not create_hub(tmp_path / "hub", "Madrid").has(name)
