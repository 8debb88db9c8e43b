"""Images go to the deployment's door, as anybody's would, only with a lower priority."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from orchestrator.authorities import authorities
from orchestrator.executors import Outcome, Task, Verdict, contents
from orchestrator.s3 import Address

CONNECT_SECONDS = 5.0
HEALTH_SECONDS = 5.0
#: the door may hold a request for half a minute before a replica takes it
ANSWER_SECONDS = 120.0
#: so long what a replica said it may read itself is taken to be so
DECLARED_SECONDS = 60.0
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
        self._health = str(httpx.URL(url).join("/healthz"))
        self._declared: tuple[str, ...] = ()  # where replicas read images themselves, by their own word
        self._ask_at = 0.0  # on the monotonic clock
        self._asking = threading.Lock()
        headers = {"X-Halve-Priority": "batch"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,  # a proxy of the environment is not between us and our own door
            verify=authorities(),
        )

    def read(self, task: Task) -> Outcome:
        """Have an image read and judge the answer. Raises OSError when its bytes are needed and cannot be read.

        A replica that says it may read the image where it lies is only told where; another is sent the bytes. So is one
        that then cannot: of several replicas each may have its own word.
        """
        address = self._reachable(task.place)
        if address is not None:
            named = self._named(task, address)
            if named is not None:
                return named
        outcome = self._sent(task)
        if address is not None and outcome.verdict is Verdict.READ:  # sending did what naming did not
            self._declared = ()
        return outcome

    def answers(self) -> bool:
        """Whether a replica answers at all."""
        try:
            return self._client.get(self._health, timeout=HEALTH_SECONDS).status_code < 500
        except httpx.HTTPError:
            return False

    def _reachable(self, place: Path | Address) -> str | None:
        address = contents.address(place)
        self._learn()
        within = address is not None and any(address.startswith(f"{source}/") for source in self._declared)
        return address if within else None

    def _learn(self) -> None:
        """Ask a replica what it may read, now and then; one thread does, the others go by what is known."""
        if self._ask_at > time.monotonic() or not self._asking.acquire(blocking=False):
            return
        try:
            self._ask_at = time.monotonic() + DECLARED_SECONDS
            says = _object(self._client.get(self._health, timeout=HEALTH_SECONDS)) or {}
            sources = says.get("sources")
            self._declared = tuple(str(one).rstrip("/") for one in sources) if isinstance(sources, list) else ()
        except httpx.HTTPError:
            self._declared = ()
        finally:
            self._asking.release()

    def _named(self, task: Task, address: str) -> Outcome | None:
        """Tell where the image lies. None when the replica cannot or may not read it there."""
        asked: dict[str, object] = {"image": {"source": address}}
        if task.fields:
            asked["fields"] = list(task.fields)
        answer = self._answer(lambda: self._client.post(self.url, json=asked))
        if isinstance(answer, Outcome):
            return answer
        says = _object(answer) or {}
        its_words = str(says.get("error", "")).startswith(address)  # a replica's, of a store that it cannot reach
        if answer.status_code == 502 and its_words:
            return None
        refused = 400 <= answer.status_code < 500 and answer.status_code not in LOST | UNAVAILABLE
        return None if refused else judged(answer)

    def _sent(self, task: Task) -> Outcome:
        content = contents.content(task.place)
        wishes = {"fields": ",".join(task.fields)} if task.fields else {}
        files = {"file": (_sendable(task.name), content)}
        answer = self._answer(lambda: self._client.post(self.url, data=wishes, files=files))
        return answer if isinstance(answer, Outcome) else judged(answer)

    def _answer(self, ask: Callable[[], httpx.Response]) -> httpx.Response | Outcome:
        """The answer, or what it means that there is none."""
        try:
            return ask()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return Outcome(verdict=Verdict.UNAVAILABLE, reason=f"no connection to {self.url}: {_words(error)}")
        except httpx.TimeoutException as error:
            return Outcome(verdict=Verdict.LOST, reason=f"no answer in time: {_words(error)}")
        except httpx.HTTPError as error:
            return Outcome(verdict=Verdict.LOST, reason=f"the connection broke: {_words(error)}")

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
