"""The engine: an image in, text out. It stands alone; others meet it over HTTP."""
