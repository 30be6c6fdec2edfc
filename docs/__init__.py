"""What is written about Motley, and what writes it."""
