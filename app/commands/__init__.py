"""What `nextword` can be told to do, one module a command, each with a function `command`."""
