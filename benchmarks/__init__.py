"""What Motley costs, measured against a peer in the same run. Nothing here decides a test."""
