"""Files that are whole or not there, with checksums; and what a value is, as text."""
