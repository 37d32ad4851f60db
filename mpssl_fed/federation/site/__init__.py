"""What one data owner does in a round, and what of it stays there."""
