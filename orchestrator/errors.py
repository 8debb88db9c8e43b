"""The one exception a user may meet."""


class Refused(Exception):
    """What was asked cannot be done. The message is one line that names the place and the remedy."""
