"""From a configuration to a layer."""
