"""Probability models of symbols, and the drivers that estimate, write and read them."""
