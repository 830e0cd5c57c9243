from __future__ import annotations

import contextlib
import email
import email.policy
import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from tests.hub.client import Answer, ask
from tests.hub.conftest import IMAGE, SECTION, RunningHub

SHARD = f"{IMAGE.image}/0/c/0/0/0"


def head_of(repository: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def commit(public_hub: RunningHub) -> str:
    return head_of(public_hub.section)


def test_an_annexed_file_answers_with_its_content(public_hub: RunningHub) -> None:
    answer = public_hub.get(f"/data/{SECTION}/main/{SHARD}")
    assert answer.status == 200
    assert answer.body == (public_hub.section / SHARD).read_bytes()


def test_a_file_in_git_answers_with_its_content_and_type(public_hub: RunningHub) -> None:
    answer = public_hub.get(f"/data/{SECTION}/main/dataset_description.json")
    assert answer.json["DatasetType"] == "raw"
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("name", [SHARD, "dataset_description.json"])
@pytest.mark.parametrize(
    ("wanted", "part"), [("bytes=0-9", slice(0, 10)), ("bytes=5-", slice(5, None)), ("bytes=-7", slice(-7, None))]
)
def test_ranges_answer_with_the_part(public_hub: RunningHub, name: str, wanted: str, part: slice) -> None:
    whole = (public_hub.section / name).read_bytes()
    answer = public_hub.get(f"/data/{SECTION}/main/{name}", headers={"Range": wanted})
    assert (answer.status, answer.body) == (206, whole[part])
    assert answer.headers["Content-Range"].endswith(f"/{len(whole)}")


@pytest.mark.parametrize("name", [SHARD, "dataset_description.json"])
@pytest.mark.parametrize("wanted", ["bytes=0-3,10-13", "bytes=10-13, 0-3", "bytes=0-0,-5,9999999-"])
def test_several_ranges_answer_with_a_part_each(public_hub: RunningHub, name: str, wanted: str) -> None:
    whole = (public_hub.section / name).read_bytes()
    url = f"{public_hub.url}/data/{SECTION}/main/{name}"
    answer = ask("GET", url, headers={"Range": wanted})
    assert answer.status == 206
    assert answer.headers["Content-Type"].startswith("multipart/byteranges")
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body, policy=email.policy.HTTP)
    parts = list(message.iter_parts())
    expected = []
    for text in wanted.removeprefix("bytes=").split(","):
        first, last = text.strip().split("-")
        start = int(first) if first else len(whole) - int(last)
        stop = int(last) + 1 if first and last else len(whole)
        if start < len(whole):
            expected.append((f"bytes {start}-{stop - 1}/{len(whole)}", whole[start:stop]))
    assert [(part["Content-Range"], raw_parts(answer)[number]) for number, part in enumerate(parts)] == expected


def raw_parts(answer: Answer) -> list[bytes]:
    """The bodies of a multipart answer, byte for byte (the email parser is at liberty with line ends)."""
    boundary = answer.headers["Content-Type"].partition("boundary=")[2].encode()
    return [part.partition(b"\r\n\r\n")[2] for part in answer.body.split(b"\r\n--" + boundary)[1:-1]]


@pytest.mark.parametrize("name", [SHARD, "dataset_description.json"])
def test_curl_gets_several_ranges(public_hub: RunningHub, name: str) -> None:
    whole = (public_hub.section / name).read_bytes()
    command = ["curl", "-sS", "--fail", "-r", "0-3,10-13", f"{public_hub.url}/data/{SECTION}/main/{name}"]
    body = subprocess.run(command, capture_output=True, check=True).stdout
    assert b"\r\n\r\n" + whole[:4] + b"\r\n--" in body
    assert b"\r\n\r\n" + whole[10:14] + b"\r\n--" in body


@pytest.mark.parametrize("name", [SHARD, "dataset_description.json"])
@pytest.mark.parametrize("wanted", ["items=0-3", "bytes=3-1,5-6", "bytes=a-b", "bytes"])
def test_ranges_that_are_none_are_ignored(public_hub: RunningHub, name: str, wanted: str) -> None:
    answer = public_hub.get(f"/data/{SECTION}/main/{name}", headers={"Range": wanted})
    assert (answer.status, answer.body) == (200, (public_hub.section / name).read_bytes())


@pytest.mark.parametrize("name", [SHARD, "dataset_description.json"])
@pytest.mark.parametrize("wanted", ["bytes=0-9,5-12", "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 200, 2))])
def test_ranges_that_make_a_long_answer_of_a_short_file_are_refused(
    public_hub: RunningHub, name: str, wanted: str
) -> None:
    assert public_hub.get(f"/data/{SECTION}/main/{name}", headers={"Range": wanted}).status == 416


@pytest.mark.parametrize("name", [SHARD, "dataset_description.json"])
def test_several_ranges_of_what_has_changed_since_answer_with_all_of_it(public_hub: RunningHub, name: str) -> None:
    url = f"/data/{SECTION}/main/{name}"
    whole, tag = public_hub.get(url).body, public_hub.get(url).headers["ETag"]
    wanted = {"Range": "bytes=0-3,10-13"}
    assert public_hub.get(url, headers={**wanted, "If-Range": '"other"'}).body == whole
    assert public_hub.get(url, headers={**wanted, "If-Range": tag}).status == 206
    assert public_hub.get(url, headers={**wanted, "If-None-Match": tag}).status == 304
    assert public_hub.get(url, headers={"Range": "bytes=0-3", "If-Range": '"other"'}).body == whole
    assert public_hub.get(url, headers={"Range": "bytes=0-3", "If-Range": tag}).body == whole[:4]
    head = ask("HEAD", public_hub.url + url, headers=wanted)
    assert (head.status in (200, 206), head.body) == (True, b"")


@pytest.mark.parametrize("name", [SHARD, "dataset_description.json"])
def test_a_range_beyond_the_end_is_refused(public_hub: RunningHub, name: str) -> None:
    answer = public_hub.get(f"/data/{SECTION}/main/{name}", headers={"Range": "bytes=999999999-"})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{(public_hub.section / name).stat().st_size}"


@pytest.mark.parametrize("name", [SHARD, "dataset_description.json"])
def test_head_gives_the_size_without_the_content(public_hub: RunningHub, name: str) -> None:
    answer = ask("HEAD", f"{public_hub.url}/data/{SECTION}/main/{name}")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) == (public_hub.section / name).stat().st_size


@pytest.mark.parametrize("name", [SHARD, "dataset_description.json"])
def test_what_has_not_changed_is_not_sent_again(public_hub: RunningHub, name: str) -> None:
    first = public_hub.get(f"/data/{SECTION}/main/{name}")
    again = public_hub.get(f"/data/{SECTION}/main/{name}", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


def test_a_commit_never_changes_and_a_branch_is_to_be_asked_again(public_hub: RunningHub, commit: str) -> None:
    assert "immutable" in public_hub.get(f"/data/{SECTION}/{commit}/{SHARD}").headers["Cache-Control"]
    assert public_hub.get(f"/data/{SECTION}/main/{SHARD}").headers["Cache-Control"] == "no-cache"
    assert public_hub.get(f"/data/{SECTION}/{commit[:10]}/{SHARD}").headers["Cache-Control"] == "no-cache"


def test_a_section_is_reached_through_its_brain_at_the_commit_that_the_brain_records(
    public_hub: RunningHub, commit: str
) -> None:
    answer = public_hub.get(f"/data/brain/main/sourcedata/sample-0042/{SHARD}")
    assert answer.body == (public_hub.section / SHARD).read_bytes()
    assert answer.headers["X-Nissl-Commit"] == commit


def test_a_tag_names_a_version(public_hub: RunningHub) -> None:
    repository = public_hub.root.repository(SECTION)
    subprocess.run(["git", "tag", "-a", "-m", "first", "release/1"], cwd=repository, check=True)
    assert public_hub.get(f"/data/{SECTION}/release%2F1/README.md").status == 200


def test_a_folder_answers_with_its_entries(public_hub: RunningHub) -> None:
    entries = public_hub.get(f"/data/{SECTION}/main").json["entries"]
    assert {"name": "sub-01", "kind": "folder"} in entries
    assert {"name": "README.md", "kind": "file"} in entries


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/data/nobody/main/README.md", 404, "no dataset 'nobody/main/README.md'"),
        (f"/data/{SECTION}/elsewhere/README.md", 404, "no branch, tag or commit 'elsewhere'"),
        (f"/data/{SECTION}/{'0' * 40}/README.md", 404, "no branch, tag or commit"),
        (f"/data/{SECTION}/main@{{1}}/README.md", 404, "'1' is no ISO 8601 date or time"),
        (f"/data/{SECTION}/main@{{2001-01-01}}/README.md", 404, "begins after 2001-01-01T00:00:00Z"),
        (f"/data/{SECTION}/other@{{2031-01-01}}/README.md", 404, "no branch, tag or commit"),
        (f"/data/{SECTION}/..@{{2031-01-01}}/README.md", 404, "no branch, tag or commit"),
        (f"/data/{SECTION}/main/missing.txt", 404, "no 'missing.txt' at main"),
        (f"/data/{SECTION}/main/README.md/inside", 404, "no 'README.md/inside'"),
        (f"/data/{SECTION}/main/../../../hub.json", 400, "is not a path inside a dataset"),
        (f"/data/{SECTION}/main/%2e%2e/%2e%2e/hub.json", 400, "is not a path inside a dataset"),
        (f"/data/{SECTION}/../node.key", 404, "no branch, tag or commit '..'"),
        (f"/data/{SECTION}/main/a%00b", 400, "control characters"),
        ("/data/../../etc/passwd", 404, "no dataset"),
        (f"/data/{SECTION}", 400, "needs a branch"),
        ("/nothing/here", 404, "Not Found"),
    ],
)
def test_what_does_not_exist_is_said_in_one_sentence(public_hub: RunningHub, path: str, status: int, says: str) -> None:
    answer = public_hub.get(path)
    assert answer.status == status
    assert says in answer.text
    assert answer.text.count("\n") == 1
    assert "Traceback" not in answer.text


def test_people_get_errors_as_a_page(public_hub: RunningHub) -> None:
    answer = public_hub.get(f"/data/{SECTION}/main/<script>", headers={"Accept": "text/html"})
    assert answer.status == 404
    assert "&lt;script&gt;" in answer.text
    assert "<script>" not in answer.text


def test_content_that_this_hub_lacks_is_an_error_for_zarr_readers_never_zeros(public_hub: RunningHub) -> None:
    image = f"{public_hub.url}/data/{SECTION}/main/{IMAGE.image}/1/"
    shard = next((public_hub.root.repository(SECTION) / "annex" / "objects").rglob(_object_of(public_hub, 1)))
    folder, aside = shard.parent, shard.parent.parent / "aside"
    folder.chmod(0o755)
    shard.rename(aside)
    try:
        answer = public_hub.get(f"/data/{SECTION}/main/{IMAGE.image}/1/c/0/0/0")
        assert answer.status == 424
        assert "not on this hub" in answer.text
        with pytest.raises(Exception, match="424"):
            zarr.open_array(image, mode="r")[:]
        with pytest.raises(ValueError, match="424"):
            tensorstore.open({"driver": "zarr3", "kvstore": image}).result().read().result()
    finally:
        aside.rename(shard)
        with contextlib.suppress(OSError):
            folder.chmod(0o555)
    assert np.asarray(zarr.open_array(image, mode="r")[:]).any()


def _object_of(hub: RunningHub, level: int) -> str:
    content = (hub.section / f"{IMAGE.image}/{level}/c/0/0/0").read_bytes()
    return f"BLAKE2B256E-s{len(content)}--{hashlib.blake2b(content, digest_size=32).hexdigest()}"


def test_zarr_python_and_tensorstore_read_the_voxels_from_the_hub(public_hub: RunningHub, commit: str) -> None:
    for ref in ("main", commit):
        url = f"{public_hub.url}/data/{SECTION}/{ref}/{IMAGE.image}/0/"
        assert np.array_equal(zarr.open_array(url, mode="r")[:], public_hub.voxels)
        opened = tensorstore.open({"driver": "zarr3", "kvstore": url}).result()
        assert np.array_equal(opened.read().result(), public_hub.voxels)


def test_viewers_on_other_sites_may_read_a_public_hub(public_hub: RunningHub) -> None:
    url = f"{public_hub.url}/data/{SECTION}/main/README.md"
    assert ask("GET", url, headers={"Origin": "https://example.org"}).headers["Access-Control-Allow-Origin"] == "*"
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "GET"}
    answer = ask("OPTIONS", url, headers={**asked, "Access-Control-Request-Headers": "authorization,range"})
    assert answer.status == 204
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
