"""What probes are asked, with every control in the same table."""
