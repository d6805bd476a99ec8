"""Of the tests here, those that need another process start it through `process.py`."""
