"""Who carries the messages: calls in this process, Flower's Ray engine, or ``flwr run``."""
