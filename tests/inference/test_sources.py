"""Images read by name: from where it was allowed, and from nowhere else, whatever the name is."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from inference.refusals import Refusal
from inference.sources import Sources, UnknownSource


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a b.png").write_bytes(b"inside")
    (tmp_path / "secret.png").write_bytes(b"outside")
    (tmp_path / "allowed-too").mkdir()
    (tmp_path / "allowed-too" / "secret.png").write_bytes(b"outside")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "near.png").symlink_to(folder / "deep" / "a b.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def test_a_file_inside_is_read(allowed: Path) -> None:
    file = Sources([f"file://{allowed}"]).read(f"file://{allowed}/deep/a%20b.png", 100)
    assert (file.name, file.content) == ("a b.png", b"inside")


def test_what_may_be_read_is_said_as_it_has_to_be_named(allowed: Path, tmp_path: Path) -> None:
    (tmp_path / "by another name").symlink_to(allowed)
    sources = Sources([f"file://{tmp_path}/by%20another%20name/", "s3://bucket/", "s3://bucket/scans/"])
    assert sources.named == [allowed.as_uri(), "s3://bucket", "s3://bucket/scans"]
    assert Sources().named == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/../secret.png", 403),
        ("/deep/../../secret.png", 403),
        ("/%2e%2e/secret.png", 403),
        ("-too/secret.png", 403),
        ("/link.png", 404),
        ("/linked/secret.png", 404),
        ("/near.png", 404),
        ("/pipe.png", 404),
        ("/deep", 404),
        ("", 404),
        ("/none.png", 404),
        ("/" + "x" * 5000, 404),
        ("/a%00b", 400),
    ],
)
def test_nothing_leads_outside(allowed: Path, path: str, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        Sources([f"file://{allowed}"]).read(f"file://{allowed}{path}", 100)
    assert refused.value.status == status


@pytest.mark.parametrize("source", ["/etc/passwd", "http://a/b", "file://host/etc/passwd", "file:", "s3://", "//[", ""])
def test_other_addresses_are_refused(allowed: Path, source: str) -> None:
    with pytest.raises(Refusal) as refused:
        Sources([f"file://{allowed}"]).read(source, 100)
    assert refused.value.status in (400, 403)


def test_without_the_option_nothing_is_read(allowed: Path) -> None:
    with pytest.raises(Refusal, match="--allow-source") as refused:
        Sources().read(f"file://{allowed}/deep/a%20b.png", 100)
    assert refused.value.status == 403


def test_a_large_file_is_not_read(allowed: Path) -> None:
    with pytest.raises(Refusal, match="at most 5") as refused:
        Sources([f"file://{allowed}"]).read(f"file://{allowed}/deep/a%20b.png", 5)
    assert refused.value.status == 413


@pytest.mark.parametrize("source", ["/tmp", "file:///no/such/folder", "http://a", "s3://", "file://host/tmp", ""])
def test_what_is_no_place_cannot_be_allowed(source: str) -> None:
    with pytest.raises(UnknownSource):
        Sources([source])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.sampled_from(["..", ".", "deep", "link.png", "linked", "allowed", "secret.png", "%2e%2e", "", "a b.png"])
        | st.text(max_size=5),
        max_size=6,
    )
)
def test_no_path_ever_gives_what_lies_outside(allowed: Path, parts: list[str]) -> None:
    try:
        file = Sources([f"file://{allowed}"]).read(f"file://{allowed}/" + "/".join(parts), 100)
    except Refusal as refusal:
        assert refusal.status in (400, 403, 404)
    else:
        assert file.content == b"inside"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="scans")
        s3.put_object(Bucket="scans", Key="in/a.png", Body=b"inside")
        s3.put_object(Bucket="scans", Key="inner/a.png", Body=b"outside")
        yield


@pytest.mark.usefixtures("bucket")
def test_objects_below_an_allowed_prefix_are_read() -> None:
    sources = Sources(["s3://scans/in"])
    assert sources.read("s3://scans/in/a.png", 100).content == b"inside"
    for source, status in (
        ("s3://scans/inner/a.png", 403),
        ("s3://scans/in", 403),
        ("s3://other/in/a.png", 403),
        ("s3://scans/in/none.png", 404),
    ):
        with pytest.raises(Refusal) as refused:
            sources.read(source, 100)
        assert refused.value.status == status, source
    with pytest.raises(Refusal, match="at most 3"):
        sources.read("s3://scans/in/a.png", 3)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    "name", ["what?.png", "a#b.png", "a%20b.png", "line\nbreak.png", "/slash.png", "发票 一.png", "a"]
)
def test_an_object_has_the_name_that_it_is_given(name: str) -> None:
    """An S3 address is no URL: `?` and `#` belong to the key, and what stands before them is another object's."""
    boto3.client("s3").put_object(Bucket="scans", Key=f"in/{name}", Body=name.encode())
    assert Sources(["s3://scans/in"]).read(f"s3://scans/in/{name}", 100).content == name.encode()


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    "source", ["s3://scans/in/../inner/a.png", "s3://scans/in/./../inner/a.png", "s3://scans/in/.."]
)
def test_no_key_climbs_out_of_its_prefix(source: str) -> None:
    """Some stores that speak S3 keep objects as files."""
    with pytest.raises(Refusal) as refused:
        Sources(["s3://scans/in"]).read(source, 100)
    assert refused.value.status == 403


@pytest.mark.usefixtures("bucket")
def test_objects_are_read_by_many_at_once() -> None:
    """Making clients is not for several threads at once (boto3's guide, "Multithreading")."""
    sources = Sources(["s3://scans/in"])
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: sources.read("s3://scans/in/a.png", 100).content, range(64)))
    assert set(found) == {b"inside"}


def test_a_file_whose_name_is_no_text_is_read(allowed: Path) -> None:
    (allowed / os.fsdecode(b"latin-\xe9.png")).write_bytes(b"inside")
    file = Sources([f"file://{allowed}"]).read(f"file://{allowed}/latin-%E9.png", 100)
    assert (os.fsencode(file.name), file.content) == (b"latin-\xe9.png", b"inside")


@pytest.mark.parametrize("name", ["a?b.png", "a#b.png"])
def test_what_a_url_cuts_off_is_not_passed_over(allowed: Path, name: str) -> None:
    """Or `a` would be read instead."""
    (allowed / "a").write_bytes(b"another")
    (allowed / name).write_bytes(b"inside")
    sources = Sources([f"file://{allowed}"])
    with pytest.raises(Refusal, match="%3F") as refused:
        sources.read(f"file://{allowed}/{name}", 100)
    assert refused.value.status == 400
    assert sources.read((allowed / name).as_uri(), 100).content == b"inside"
