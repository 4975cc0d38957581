"""From a name to files that are looked at before anything is made of them."""
