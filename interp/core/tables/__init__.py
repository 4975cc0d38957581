"""What comes out: long tables that know where they came from."""
