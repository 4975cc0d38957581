"""A model as it is at this moment, and what is known of it since it last changed."""
