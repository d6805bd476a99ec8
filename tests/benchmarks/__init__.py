"""How fast nextword is, beside others, in one run: `python -m tests.benchmarks --help`. Results go to BENCHMARKS.md."""
