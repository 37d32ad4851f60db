"""The server: rounds, what is collected, how it is aggregated and evaluated."""
