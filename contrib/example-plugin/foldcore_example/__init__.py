"""A plugin of foldcore. The entry points in pyproject.toml name its classes."""
