"""The export of a quality head, from a config to its folder."""
