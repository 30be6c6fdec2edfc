"""What both sides agree on: settings, messages, encodings, randomness and the byte ledger."""
