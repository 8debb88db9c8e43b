"""The page at /ui: one image, many, the model as a file, how fast this machine is. Gradio comes with the extra `ui`.

Nothing of it is imported before somebody opens the page, so a replica that nobody looks at starts as fast and stays as
small as without it.
"""

from importlib.util import find_spec

PATH = "/ui"
REMEDY = "the page at /ui needs Gradio, which is not installed: pip install 'halve[ui]'"


def installed() -> bool:
    return find_spec("gradio") is not None
