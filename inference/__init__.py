"""The engine: an image in, text out. It stands alone; others meet it over HTTP."""

from importlib.util import find_spec

_NEEDED = ("cv2", "onnxruntime", "rapidocr", "PIL", "pyclipper", "starlette", "uvicorn", "python_multipart")


def absent_packages() -> list[str]:
    """The modules of the extra `cpu` (or `gpu`) that are not installed here; empty when the engine can run."""
    return [name for name in _NEEDED if find_spec(name) is None]
