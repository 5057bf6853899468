"""The models that harrier-edge knows by name, as data: one TOML file and one card each."""
