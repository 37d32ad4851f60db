"""The report of one run: its page, tables, plots and diagnosis."""
