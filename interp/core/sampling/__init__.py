"""What chance does: intervals and tests over clusters, draws of controls, halves."""
