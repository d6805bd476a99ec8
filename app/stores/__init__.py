"""Where sessions live: one protocol, several places."""
