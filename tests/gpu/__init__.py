"""What only a GPU can tell: the same agreement and the same losses on a real one, and the commands on it."""
