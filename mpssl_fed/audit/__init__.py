"""What an attacker could measure, beside what is claimed."""
