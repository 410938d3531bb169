"""Values and rules: no module here reads or writes anything."""
