"""halve doctor"""


def doctor() -> None:
    """Look for what would keep halve from working here."""
