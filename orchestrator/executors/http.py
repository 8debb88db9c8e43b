"""Images go to the deployment's door, as anybody's would, only with a lower priority."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx

from orchestrator.executors import Outcome, Task, Verdict

CONNECT_SECONDS = 5.0
#: the door may hold a request for half a minute before a replica takes it
ANSWER_SECONDS = 120.0
#: characters of a reason that are kept
REASON_MAX = 300
#: they say that the address or the token is wrong, not the image
BARRED = frozenset({401, 403, 404, 405, 407})
#: nobody took the image
UNAVAILABLE = frozenset({429, 503})
#: a proxy's words for a replica that died, or did not answer in time
LOST = frozenset({408, 502, 504})


class HttpExecutor:
    """Posts each image to `url` (`http://door/v1/ocr`). Connections are kept and shared by all threads."""

    def __init__(self, url: str, token: str | None = None, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.url = url
        headers = {"X-Halve-Priority": "batch"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,  # a proxy of the environment is not between us and our own door
        )

    def read(self, task: Task) -> Outcome:
        """Send the file's bytes and judge the answer. Raises OSError when the file cannot be read."""
        wishes = {"fields": ",".join(task.fields)} if task.fields else {}
        with task.path.open("rb") as file:
            try:
                answer = self._client.post(self.url, data=wishes, files={"file": (_sendable(task.name), file)})
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                return Outcome(verdict=Verdict.UNAVAILABLE, reason=f"no connection to {self.url}: {_words(error)}")
            except httpx.TimeoutException as error:
                return Outcome(verdict=Verdict.LOST, reason=f"no answer in time: {_words(error)}")
            except httpx.HTTPError as error:
                return Outcome(verdict=Verdict.LOST, reason=f"the connection broke: {_words(error)}")
        return judged(answer)

    def close(self) -> None:
        """Close all connections. What is under way ends as lost."""
        self._client.close()


def judged(answer: httpx.Response) -> Outcome:
    """What an answer means for the image it is about."""
    says = _object(answer)
    if answer.status_code == 200:
        if says is not None and isinstance(says.get("recognized_text"), str):
            return Outcome(verdict=Verdict.READ, result=says)
        return Outcome(verdict=Verdict.FAULT, reason="the answer is not the JSON object of one image")
    said = str((says or {}).get("reason") or (says or {}).get("error") or answer.reason_phrase)
    reason = " ".join(f"{answer.status_code} {said}".split())[:REASON_MAX]
    if answer.status_code in LOST:
        return Outcome(verdict=Verdict.LOST, reason=reason)
    if answer.status_code in UNAVAILABLE:
        return Outcome(verdict=Verdict.UNAVAILABLE, reason=reason, retry_after_seconds=_retry_after(answer))
    if answer.status_code in BARRED or answer.status_code < 400:
        return Outcome(verdict=Verdict.BARRED, reason=f"{answer.request.url}: {reason}")
    return Outcome(verdict=Verdict.REFUSED if answer.status_code < 500 else Verdict.FAULT, reason=reason)


def _object(answer: httpx.Response) -> Mapping[str, Any] | None:
    with suppress(ValueError):
        says = answer.json()
        if isinstance(says, dict):
            return says
    return None


def _retry_after(answer: httpx.Response) -> float | None:
    with suppress(ValueError):
        seconds = float(answer.headers.get("Retry-After", ""))
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    return None


def _sendable(name: str) -> str:
    """The name as UTF-8 can say it: bytes that are not are replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:REASON_MAX] or type(error).__name__
