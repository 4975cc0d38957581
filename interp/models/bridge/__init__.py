"""What TransformerLens' bridge needs to be exact, and where in it each activation stands."""
