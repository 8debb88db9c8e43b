"""Pure decisions: what should be, given what is. No clock, no randomness, no input or output."""
