"""The door of every public function: what it is given is looked at before anything else happens."""
