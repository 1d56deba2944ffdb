"""The models that nodes train."""
