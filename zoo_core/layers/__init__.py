"""Building blocks that several methods share. Import from the submodules: each has one idea."""
