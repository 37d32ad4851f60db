"""The report of a study: its page, tables and plots."""
