"""What a study would take, found out without its data."""
