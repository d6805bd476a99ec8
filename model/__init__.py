"""What a next-word model is."""
