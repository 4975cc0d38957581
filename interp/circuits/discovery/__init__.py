"""From a ranking, or edge by edge, to a circuit."""
