"""The three interfaces a plugin can implement. They do not know each other."""
