"""Readers, one for each format of annotated text."""
