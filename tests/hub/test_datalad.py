"""Plain datalad, git and git-annex against the hub."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nissl.federation.access import Action, Grant
from nissl.federation.tokens import issue_token
from nissl.hub.intake import add_dataset
from nissl.hub.root import create_hub
from tests.hub.client import ask
from tests.hub.conftest import IMAGE, SECTION, RunningHub, free_port, serving

BIN = Path(sys.executable).parent


def run(*command: str, cwd: Path, ok: bool = True) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is ok, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def a_clone(hub: RunningHub, folder: Path, dataset: str = SECTION) -> Path:
    run("datalad", "clone", f"{hub.url}/git/{dataset}", str(folder), cwd=folder.parent)
    return folder


def log_in(clone: Path, token: str) -> None:
    """As a user who stored the token with git's own credential store."""
    run("git", "config", "credential.helper", f"!f() {{ echo username=ramon; echo password={token}; }}; f", cwd=clone)


def shards(section: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(section)): path.read_bytes()
        for path in section.rglob("*.ome.zarr/*/c/**/*")
        if path.is_file()
    }


def test_a_brain_is_cloned_got_and_checked_by_plain_datalad(public_hub: RunningHub, tmp_path: Path) -> None:
    work = a_clone(public_hub, tmp_path / "work", "brain")
    run("datalad", "get", "-n", "sourcedata/sample-0042", cwd=work)
    section = work / IMAGE.section
    assert all(content.startswith(b"/annex/objects/") for content in shards(section).values())
    run("datalad", "get", "sourcedata/sample-0042", cwd=work)
    assert shards(section) == shards(public_hub.section)
    assert "failed" not in run("git", "annex", "fsck", cwd=section)
    assert run("git", "status", "--porcelain", cwd=work) == ""


def test_dropping_relies_on_the_copy_that_the_hub_locks(public_hub: RunningHub, tmp_path: Path) -> None:
    section = a_clone(public_hub, tmp_path / "work")
    run("datalad", "get", ".", cwd=section)
    run("datalad", "drop", ".", cwd=section)
    assert all(content.startswith(b"/annex/objects/") for content in shards(section).values())
    run("datalad", "get", ".", cwd=section)
    assert shards(section) == shards(public_hub.section)


def test_pushing_without_a_token_is_refused_and_changes_nothing(public_hub: RunningHub, tmp_path: Path) -> None:
    section = a_clone(public_hub, tmp_path / "work")
    before = run("git", "ls-remote", "origin", cwd=section)
    run("git", "switch", "-q", "-c", "unasked", cwd=section)
    (section / "note.txt").write_text("who let me in?")
    run("datalad", "save", "-m", "note", cwd=section)
    run("datalad", "push", "--to", "origin", cwd=section, ok=False)
    assert run("git", "ls-remote", "origin", cwd=section) == before


def test_a_token_that_may_write_pushes_content_and_branch(public_hub: RunningHub, tmp_path: Path) -> None:
    section = a_clone(public_hub, tmp_path / "work")
    log_in(section, public_hub.token(Action.READ, Action.WRITE))
    run("git", "switch", "-q", "-c", "with-token", cwd=section)
    content = bytes(range(256)) * 2000
    (section / "extra.bin").write_bytes(content)
    run("datalad", "save", "-m", "extra", cwd=section)
    run("datalad", "push", "--to", "origin", cwd=section)
    assert public_hub.get(f"/data/{SECTION}/with-token/extra.bin").body == content
    other = a_clone(public_hub, tmp_path / "other")
    run("git", "switch", "-q", "with-token", cwd=other)
    run("datalad", "get", "extra.bin", cwd=other)
    assert (other / "extra.bin").read_bytes() == content


def test_a_token_for_reading_does_not_push(public_hub: RunningHub, tmp_path: Path) -> None:
    section = a_clone(public_hub, tmp_path / "work")
    log_in(section, public_hub.token(Action.READ))
    run("git", "switch", "-q", "-c", "reader", cwd=section)
    run("git", "commit", "-q", "--allow-empty", "-m", "mine", cwd=section)
    said = run("git", "push", "origin", "reader", cwd=section, ok=False)
    assert "403" in said


def test_history_on_the_hub_is_not_rewritten(public_hub: RunningHub, tmp_path: Path) -> None:
    section = a_clone(public_hub, tmp_path / "work")
    log_in(section, public_hub.token(Action.READ, Action.WRITE))
    before = run("git", "ls-remote", "origin", "main", cwd=section)
    run("git", "commit", "-q", "--amend", "-m", "it was always so", cwd=section)
    run("git", "push", "--force", "origin", "main", cwd=section, ok=False)
    run("git", "push", "origin", ":main", cwd=section, ok=False)
    assert run("git", "ls-remote", "origin", "main", cwd=section) == before


def test_a_private_hub_is_cloned_with_a_token_as_the_password(private_hub: RunningHub, tmp_path: Path) -> None:
    run("git", "clone", "-q", f"{private_hub.url}/git/{SECTION}", "no", cwd=tmp_path, ok=False)
    token = private_hub.token(Action.READ, datasets=("brain",))
    with_token = private_hub.url.replace("http://", f"http://ramon:{token}@")
    run("datalad", "clone", f"{with_token}/git/{SECTION}", "work", cwd=tmp_path)
    section = tmp_path / "work"
    log_in(section, token)
    run("datalad", "get", ".", cwd=section)
    assert shards(section) == shards(private_hub.section)


SURFACES = [
    "/",
    "/api/datasets",
    f"/data/{SECTION}/main/README.md",
    "/data/nobody/main/README.md",
    f"/git/{SECTION}/info/refs?service=git-upload-pack",
    f"/git/{SECTION}/config",
    "/git/nobody/config",
    "/annex/git-annex/00000000-0000-0000-0000-000000000000/v4/key/SHA256E-s1--0",
    f"/view/{SECTION}/main/{IMAGE.image}",
]


@pytest.mark.parametrize("path", SURFACES)
def test_a_private_hub_asks_everybody_for_a_token_and_tells_nothing(private_hub: RunningHub, path: str) -> None:
    answer = private_hub.get(path)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
    assert "sample" not in answer.text


@pytest.mark.parametrize("path", [path for path in SURFACES if "nobody" not in path and "/annex/" not in path])
def test_a_private_hub_answers_who_has_a_token(private_hub: RunningHub, path: str) -> None:
    assert ask("GET", private_hub.url + path, token=private_hub.token(Action.READ)).status in (200, 302)


def test_a_token_may_also_come_as_a_bearer_token(private_hub: RunningHub) -> None:
    headers = {"Authorization": f"Bearer {private_hub.token(Action.READ)}"}
    assert private_hub.get("/api/datasets", headers=headers).status == 200


def test_a_token_of_another_dataset_sees_nothing_of_this_one(private_hub: RunningHub) -> None:
    token = private_hub.token(Action.READ, datasets=("other",))
    assert ask("GET", f"{private_hub.url}/data/{SECTION}/main/README.md", token=token).status == 403
    assert ask("GET", f"{private_hub.url}/api/datasets", token=token).json["datasets"] == []


@pytest.mark.parametrize("bad", ["", "nonsense", "a.b.c"])
def test_a_token_that_is_none_gets_the_challenge_again(private_hub: RunningHub, bad: str) -> None:
    answer = ask("GET", f"{private_hub.url}/api/datasets", token=bad)
    assert answer.status == 401
    assert "not a token of this hub" in answer.json["error"]


def test_an_expired_token_says_so(private_hub: RunningHub) -> None:
    token = private_hub.token(Action.READ, life=timedelta(hours=-1))
    answer = ask("GET", f"{private_hub.url}/api/datasets", token=token)
    assert answer.status == 401
    assert "expired" in answer.json["error"]


def test_a_token_of_another_hub_is_none_here(private_hub: RunningHub, public_hub: RunningHub) -> None:
    token = public_hub.token(Action.READ)
    assert ask("GET", f"{private_hub.url}/api/datasets", token=token).status == 401


@pytest.mark.parametrize("verb", ["put", "remove", "putoffset", "remove-before", "gettimestamp"])
def test_annex_content_is_changed_only_with_a_token(public_hub: RunningHub, verb: str) -> None:
    uuid = public_hub.get(f"/git/{SECTION}/config").text.split("uuid = ")[1].split()[0]
    url = f"{public_hub.url}/annex/git-annex/{uuid}/v4/{verb}?key=SHA256E-s1--0&clientuuid={uuid}"
    assert ask("POST", url, body=b"x").status == 401


def test_an_annexed_object_is_sent_from_an_offset(public_hub: RunningHub) -> None:
    uuid = public_hub.get(f"/git/{SECTION}/config").text.split("uuid = ")[1].split()[0]
    path = f"{IMAGE.image}/0/c/0/0/0"
    key = run("git", "annex", "lookupkey", path, cwd=public_hub.section).strip()
    whole = (public_hub.section / path).read_bytes()
    url = f"/annex/git-annex/{uuid}/v4/key/{key}?clientuuid={uuid}"
    answer = public_hub.get(f"{url}&offset=1000")
    assert (answer.status, answer.body) == (200, whole[1000:])
    assert public_hub.get(url).headers["X-git-annex-data-length"] == str(len(whole))


def test_adding_again_brings_what_is_new(public_hub: RunningHub) -> None:
    first = run(str(BIN / "nissl"), "hub", "add", str(public_hub.root.path), str(public_hub.brain.path), cwd=BIN)
    assert "updated brain at" in first
    assert "0 annexed files copied" in first
    run("git", "annex", "fsck", "--all", cwd=public_hub.root.repository(SECTION))
    run("git", "fsck", "--strict", cwd=public_hub.root.repository(SECTION))


def test_a_brain_may_be_on_two_hubs(public_hub: RunningHub, tmp_path: Path) -> None:
    nissl, brain = str(BIN / "nissl"), str(public_hub.brain.path)
    run(nissl, "hub", "init", "second", cwd=tmp_path)
    said = run(nissl, "hub", "add", "second", brain, cwd=tmp_path, ok=False)
    assert "--sibling" in said
    run(nissl, "hub", "add", "second", brain, "--sibling", "second", "--name", "copy", cwd=tmp_path)
    copied = list((tmp_path / "second" / "datasets").rglob("BLAKE2B256E-*"))
    sizes = {path.stat().st_size for path in copied if path.is_file()}
    assert sizes >= set(map(len, shards(public_hub.section).values()))


def test_what_is_no_dataset_is_not_taken_in(public_hub: RunningHub, tmp_path: Path) -> None:
    nissl, root = str(BIN / "nissl"), str(public_hub.root.path)
    assert "is not a dataset" in run(nissl, "hub", "add", root, str(tmp_path), cwd=tmp_path, ok=False)
    bad_name = run(nissl, "hub", "add", root, str(public_hub.section), "--name", "../out", cwd=tmp_path, ok=False)
    assert "cannot be a dataset's name" in bad_name
    assert "port" in run(
        nissl, "hub", "serve", root, "--port", public_hub.url.rpartition(":")[2], cwd=tmp_path, ok=False
    )


@pytest.mark.slow
def test_a_fetch_with_a_long_history_of_its_own_is_understood(public_hub: RunningHub, tmp_path: Path) -> None:
    # git compresses requests of more than a kilobyte, as the list of commits that this clone has.
    clone, other = a_clone(public_hub, tmp_path / "work"), a_clone(public_hub, tmp_path / "other")
    for number in range(60):
        run("git", "commit", "-q", "--allow-empty", "-m", f"mine {number}", cwd=clone)
    log_in(other, public_hub.token(Action.READ, Action.WRITE))
    run("git", "switch", "-q", "-c", "news", cwd=other)
    run("git", "commit", "-q", "--allow-empty", "-m", "theirs", cwd=other)
    run("git", "push", "-q", "origin", "news", cwd=other)
    run("git", "fetch", "-q", "origin", cwd=clone)
    assert "theirs" in run("git", "log", "--format=%s", "origin/news", cwd=clone)


@pytest.mark.slow
def test_a_killed_hub_leaves_no_process_and_loses_nothing(public_hub: RunningHub, tmp_path: Path) -> None:
    doomed = create_hub(tmp_path / "hub", "Doomed")
    add_dataset(doomed, public_hub.section, "sample", sibling="doomed")
    port = free_port()
    with subprocess.Popen(
        [str(BIN / "nissl"), "hub", "serve", str(doomed.path), "--port", str(port), "--public"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        url = f"http://localhost:{port}/git/sample"
        for _ in range(100):
            if subprocess.run(["git", "ls-remote", url], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        run("datalad", "clone", url, "work", cwd=tmp_path)
        section = tmp_path / "work"
        write = Grant("ramon", frozenset({Action.READ, Action.WRITE}))
        log_in(section, issue_token(doomed.key, write, timedelta(hours=1), datetime.now(UTC)))
        content = bytes(range(256)) * 1000
        (section / "last.bin").write_bytes(content)
        run("datalad", "save", "-m", "last", cwd=section)
        run("datalad", "push", "--to", "origin", cwd=section)
        assert annex_servers(doomed.path)
        process.kill()
    for _ in range(100):
        if not annex_servers(doomed.path):
            break
        time.sleep(0.1)
    else:
        pytest.fail("`git annex p2phttp` goes on without its hub")
    repository = doomed.repository("sample")
    run("git", "fsck", "--strict", cwd=repository)
    assert "failed" not in run("git", "annex", "fsck", "--all", cwd=repository)
    with serving(doomed.path, public=True) as url:
        assert ask("GET", f"{url}/data/sample/main/last.bin").body == content


def annex_servers(root: Path) -> set[int]:
    """Processes of `git annex p2phttp` for that hub."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"p2phttp" in words and str(root / "datasets").encode() in words:
                found.add(int(folder.name))
    return found
