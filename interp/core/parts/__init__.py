"""The parts of a model and their names: sites, edges, the graph of all edges, circuits."""
