"""How far a ledger can count: no decision and no job bears a greater number."""

MOST_NUMBER = 2**63 - 1
