"""Three tasks of our own for lm-evaluation-harness, and the command that holds its figures to ours."""
