"""Pages to look at: one file each, with everything in it."""

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "matplotlib is not installed: it draws the plots. pip install 'nextword[train]'", name=error.name
    ) from error
