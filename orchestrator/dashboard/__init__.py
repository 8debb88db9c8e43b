"""The dashboard: pages about what runs, what it costs, and why, read from the ledger by a process of its own.

It needs no daemon, and can neither slow nor end one. It shows; it acts only where the spec's `dashboard: {actions:
true}` or `--allow-actions` says so, and then by the very functions behind `halve override`, `halve down`, `halve job`.

Vendored in static/ as npm has them, licences beside: htmx.org 4.0.1, uplot 1.6.32. Nothing is loaded from elsewhere.
"""
