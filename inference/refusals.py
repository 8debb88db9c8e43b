"""Why a request is not answered with a page."""


class Refusal(Exception):
    """The request is answered with this status and one line that says why."""

    def __init__(self, status: int, reason: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
