"""The orchestrator sees the world, asks the policies, records their plan, and acts."""

__version__ = "0.1.0"
