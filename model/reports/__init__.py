"""Pages to look at: one file each, with everything in it."""
