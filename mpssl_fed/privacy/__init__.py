"""Releases under differential privacy and what guards them: noise, accounting, ledger, policy, egress."""
