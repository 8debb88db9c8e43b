"""The bytes of an image, from wherever it lies, and the address by which a replica may fetch it itself."""

from pathlib import Path

from orchestrator import s3


def content(place: Path | s3.Address) -> bytes:
    """The image's bytes. Raises OSError when it cannot be read."""
    return s3.read(place) if isinstance(place, s3.Address) else place.read_bytes()


def address(place: Path | s3.Address) -> str | None:
    """`file:///…` or `s3://…`; None for a name that no address can say."""
    try:
        shown = str(place) if isinstance(place, s3.Address) else place.absolute().as_uri()
        shown.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return shown
